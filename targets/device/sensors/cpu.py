"""Clocks, load and RAPL energy (x86) of the CPU."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Callable, Dict, List

from targets.device.sensors.gauge import (
    CLOCK,
    CPU_TIME,
    ENERGY,
    Sensors,
    Source,
    Unreadable,
    by_number,
    number,
    reader,
    text,
)

CPU = Path("sys/devices/system/cpu")
POWERCAP = Path("sys/class/powercap")
# Idle fields of the first line of /proc/stat: idle, iowait. The hypervisor's time (steal) counts as busy.
IDLE_FIELDS, COUNTED_FIELDS = (3, 4), 8


def find_processor(root: Path, sensors: Sensors) -> None:
    """Add the CPU's clocks, governor and busy time."""
    policies = sorted((root / CPU / "cpufreq").glob("policy*"), key=by_number)
    if not policies:
        sensors.missing["clock of the CPU"] = (
            f"{root / CPU / 'cpufreq'} has no policies: a virtual machine, or no cpufreq driver."
        )
    for policy in policies:
        name = f"cpu{by_number(policy)[0]}"
        sensors.add(CLOCK, name, reader(policy / "scaling_cur_freq", 1e-3), missing=f"clock of {name}")
    for fact, file in (
        ("CPU governor", "scaling_governor"),
        ("CPU clock driver", "scaling_driver"),
        ("CPU least clock", "scaling_min_freq"),
        ("CPU most clock", "scaling_max_freq"),
    ):
        if policies:
            sensors.fact(fact, _common(policies, file))
    boost = root / CPU / "cpufreq/boost"
    no_turbo = root / CPU / "intel_pstate/no_turbo"
    if boost.is_file():
        sensors.fact("CPU boost", lambda: {"0": "off", "1": "on"}.get(text(boost), text(boost)))
    elif no_turbo.is_file():
        sensors.fact("CPU boost", lambda: {"1": "off", "0": "on"}.get(text(no_turbo), text(no_turbo)))
    if sensors.add(CPU_TIME, "all", lambda: busy_seconds(root), missing="load of the CPU"):
        sensors.add(CPU_TIME, "own", time.process_time)
    sensors.fact("load average before", lambda: " ".join(text(root / "proc/loadavg").split()[:3]))


def busy_seconds(root: Path) -> float:
    """Return the busy seconds of all CPUs since boot; raise `Unreadable`."""
    path = root / "proc/stat"
    fields = text(path).split("\n", 1)[0].split()
    try:
        ticks = [int(field) for field in fields[1 : COUNTED_FIELDS + 1]]
        if fields[0] != "cpu" or len(ticks) < COUNTED_FIELDS:
            raise ValueError
    except (ValueError, IndexError):
        raise Unreadable(f"{path} does not begin with the CPU's times.") from None
    idle = sum(ticks[index] for index in IDLE_FIELDS)
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")


def find_rapl(root: Path, sensors: Sensors) -> None:
    """Add the energy of every CPU package (Intel and AMD) and its memory, if the kernel counts it."""
    packages = []
    for zone in sorted((root / POWERCAP).glob("intel-rapl:*"), key=lambda path: path.name):
        try:
            name = text(zone / "name")
        except Unreadable as reason:
            sensors.missing[f"energy of {zone.name}"] = str(reason)
            continue
        if not name.startswith(("package", "dram")):
            continue
        label = f"{name} ({zone.name})" if name == "dram" else name
        if sensors.add(ENERGY, label, Unwrapped(zone), missing=f"energy of {label}") and name != "dram":
            packages.append(label)
    if packages:
        covers = "the CPU packages; neither memory nor other parts of the machine"
        sensors.sources.append(Source("cpu", covers, ENERGY, tuple(packages)))
    elif not any(key.startswith("energy of ") for key in sensors.missing):
        sensors.missing["energy of the CPU"] = (
            f"there is no RAPL zone in {root / POWERCAP}: not an x86 CPU with kernel support, a virtual machine, "
            "or a container (Docker hides it; measure outside)."
        )


class Unwrapped:
    """A RAPL counter in joules, with the kernel counter's wraparounds removed."""

    def __init__(self, zone: Path) -> None:
        self._zone = zone
        self._last = 0.0
        self._before = 0.0

    def __call__(self) -> float:
        now = number(self._zone / "energy_uj")
        if now < self._last:
            self._before += number(self._zone / "max_energy_range_uj")
        self._last = now
        return (self._before + now) * 1e-6


def _common(policies: List[Path], file: str) -> Callable[[], str]:
    """Return a reader of one text for all policies: "schedutil", or "performance (cpu0), powersave (cpu4)"."""

    def read() -> str:
        groups: Dict[str, List[str]] = {}
        for policy in policies:
            path = policy / file
            value = f"{number(path) * 1e-3:.0f} MHz" if file.endswith("_freq") else text(path)
            groups.setdefault(value, []).append(f"cpu{by_number(policy)[0]}")
        if len(groups) == 1:
            return next(iter(groups))
        return ", ".join(f"{value} ({' '.join(names)})" for value, names in groups.items())

    return read
