"""Temperatures and thermal throttling: Linux's thermal zones, x86's counters, Raspberry Pi."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict

from targets.device.sensors.gauge import (
    EVENTS,
    STATE,
    TEMPERATURE,
    Sensors,
    Unreadable,
    by_number,
    number,
    reader,
    text,
)

# CPU sensors on x86, where few machines have a thermal zone for the CPU.
CHIPS = ("coretemp", "k10temp", "zenpower")
# Cooling devices that throttle clocks; the others are fans, backlights, radios.
CUTS = ("cpufreq-", "thermal-cpufreq", "devfreq-", "thermal-devfreq", "Processor", "intel_powerclamp")
ALERT = "-throttle-alert"
"""A Jetson's cooling devices that report throttling directly."""
FIRMWARE = Path("sys/devices/platform/soc/soc:firmware/get_throttled")
NOW_BITS = 0b1111
"""Raspberry Pi: under-voltage, capped, throttled, soft limit; 16 bits higher are the same since boot."""


def find_thermal(root: Path, sensors: Sensors) -> None:
    """Add temperatures, and throttling counters and states."""
    _find_zones(root, sensors)
    _find_chips(root, sensors)
    _find_cooling(root, sensors)
    _find_counters(root, sensors)
    if (root / FIRMWARE).is_file():
        sensors.add(STATE, "firmware (under-voltage, cap, heat)", _firmware(root / FIRMWARE), missing="firmware")
    kinds = {gauge.kind for gauge in sensors.gauges}
    if TEMPERATURE not in kinds:
        where = f"{root / 'sys/class/thermal'} and {root / 'sys/class/hwmon'}"
        sensors.missing.setdefault("temperature", f"there is no temperature sensor in {where}.")
    if not kinds & {STATE, EVENTS}:
        sensors.missing["throttling"] = "there is neither a cooling device that throttles clocks nor a counter."


def _find_zones(root: Path, sensors: Sensors) -> None:
    seen: Dict[str, int] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"), key=by_number):
        try:
            kind = text(zone / "type")
        except Unreadable as reason:
            sensors.missing[f"temperature of {zone.name}"] = str(reason)
            continue
        seen[kind] = seen.get(kind, 0) + 1
        name = kind if seen[kind] == 1 else f"{kind} {seen[kind]}"
        sensors.add(TEMPERATURE, name, reader(zone / "temp", 1e-3), missing=f"temperature of {name}")


def _find_chips(root: Path, sensors: Sensors) -> None:
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*"), key=by_number):
        try:
            name = text(chip / "name")
        except Unreadable:
            continue
        if name not in CHIPS:
            continue
        # temp1 is the package, the others are the cores.
        label = f"{name} ({chip.name})" if any(g.name == name for g in sensors.gauges) else name
        sensors.add(TEMPERATURE, label, reader(chip / "temp1_input", 1e-3), missing=f"temperature of {label}")


def _find_cooling(root: Path, sensors: Sensors) -> None:
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*"), key=by_number):
        try:
            kind = text(device / "type")
        except Unreadable:
            continue
        if kind.startswith(CUTS) or kind.endswith(ALERT):
            name = f"{kind} ({device.name})" if kind == "Processor" else kind
            sensors.add(STATE, name, reader(device / "cur_state"), missing=f"state of {name}")


def _find_counters(root: Path, sensors: Sensors) -> None:
    """Add the throttling counters; cores of a package share its counter, and Docker hides the folder."""
    counters = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle"), key=_by_parent)
    cores = [folder / "core_throttle_count" for folder in counters]
    packages = [folder / "package_throttle_count" for folder in counters]
    if counters:
        sensors.add(EVENTS, "cores", lambda: sum(number(path) for path in cores), missing="throttling of cores")
        sensors.add(
            EVENTS, "package", lambda: max(number(path) for path in packages), missing="throttling of the package"
        )


def _by_parent(path: Path) -> int:
    return by_number(path.parent)[0]


def _firmware(path: Path) -> Callable[[], float]:
    return lambda: float(int(number(path, 16)) & NOW_BITS)
