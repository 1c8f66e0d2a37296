"""Power of a Jetson from its INA3221 and INA238 monitors, by the kernel's hwmon files (JetPack 5 and later).

`tegrastats` reads the same chips, but unlike these files it is not available in containers. Channels 1 to 3 of an
INA3221 are rails; the others (in4 to in7, curr4) are shunt voltages and sums (kernel,
Documentation/hwmon/ina3221.rst).
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator, Tuple

from targets.device.sensors.gauge import POWER, Sensors, Source, Unreadable, number, reader, text

DRIVERS = ("ina3221", "ina238")
CHANNELS = (1, 2, 3)
# (rails whose sum it is, what it covers); the first complete one is used. NVIDIA's Jetson Linux Developer Guide,
# "Platform Power and Performance", names the rails of each module. AGX Orin's fourth, VDDQ_VDD2_1V8AO, is fed from
# VIN_SYS_5V0 and would be counted twice.
TOTALS: Tuple[Tuple[Tuple[str, ...], str], ...] = (
    (("VIN",), "module and carrier board, at the supply's input (Thor)"),
    (("VDD_IN",), "the module, at its input (Orin NX, Orin Nano, Xavier NX)"),
    (
        ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        "the module as the sum of its rails (AGX Orin); losses of its regulators' input are not in it",
    ),
    (
        ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
        "the module as the sum of its rails (Thor without VIN); losses of its regulators' input are not in it",
    ),
    (
        ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
        "the module as the sum of its rails (AGX Xavier); losses of its regulators' input are not in it",
    ),
)


def find_rails(root: Path, sensors: Sensors) -> None:
    """Add every rail in watts, and the source `module` as their sum."""
    found = []
    for name, read in _rails(root):
        if sensors.add(POWER, name, read, missing=f"power of {name}"):
            found.append(name)
    for rails, covers in TOTALS:
        if set(rails) <= set(found):
            sensors.sources.append(Source("module", covers, POWER, rails))
            return
    if found:
        sensors.missing["power of the module"] = (
            f"the rails here ({', '.join(found)}) are not a known set whose sum is the module's power."
        )
    else:
        sensors.missing["power of the module"] = (
            f"there is no rail of an INA3221 or INA238 in {root / 'sys/bus/i2c/drivers'}."
        )


def _rails(root: Path) -> Iterator[Tuple[str, Callable[[], float]]]:
    for driver in DRIVERS:
        chips = sorted((root / "sys/bus/i2c/drivers" / driver).glob("*-*/hwmon/hwmon*"))
        for chip in chips:
            yield from _single(chip) if driver == "ina238" else _triple(chip)


def _triple(chip: Path) -> Iterator[Tuple[str, Callable[[], float]]]:
    """Yield the rails of an INA3221, which has only voltage and current, in mV and mA."""
    for channel in CHANNELS:
        try:
            label = text(chip / f"in{channel}_label")
        except Unreadable:
            continue
        if label and label != "NC":
            yield label, _product(chip / f"in{channel}_input", chip / f"curr{channel}_input")


def _single(chip: Path) -> Iterator[Tuple[str, Callable[[], float]]]:
    """Yield the only channel of an INA238, whose power is in microwatts and whose label is the chip's."""
    for name in ("label", "in1_label", "power1_label"):
        try:
            label = text(chip / name)
        except Unreadable:
            continue
        yield label, reader(chip / "power1_input", 1e-6)
        return


def _product(volts: Path, amperes: Path) -> Callable[[], float]:
    return lambda: number(volts) * number(amperes) * 1e-6
