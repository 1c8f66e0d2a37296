"""What a sensor is, and how its small text files are read: a figure, or the reason why there is none."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

# Kinds of gauges, with their units.
POWER = "power_w"
ENERGY = "energy_j"
"""A counter that only rises."""
CLOCK = "clock_mhz"
TEMPERATURE = "temperature_c"
EVENTS = "throttle_events"
"""A counter of times that clocks were cut; it must not rise."""
STATE = "throttle_state"
"""Above 0 while clocks are cut."""
GPU_LOAD = "gpu_load_percent"
CPU_TIME = "cpu_seconds"
"""Two counters: "all" programs together, and this process's "own"."""


class Unreadable(Exception):
    """A figure that cannot be had here; the message is the reason."""


class SwitchedOff(Unreadable):
    """What it measures has no power now, such as a Jetson's idle GPU; it may have a figure later."""


@dataclass(frozen=True)
class Gauge:
    """One sensor."""

    kind: str
    name: str
    read: Callable[[], float]
    """Its figure now; raises `Unreadable`."""


@dataclass(frozen=True)
class Source:
    """Gauges whose sum is the power of something, or whose counters are its energy."""

    name: str
    covers: str
    """What is in it and what is not, in words."""
    kind: str
    """POWER or ENERGY."""
    gauges: Tuple[str, ...]


@dataclass
class Sensors:
    """Everything that was found, and the reason for everything that was not."""

    gauges: List[Gauge] = field(default_factory=list)
    sources: List[Source] = field(default_factory=list)
    """The most telling one first."""
    facts: Dict[str, str] = field(default_factory=dict)
    """What does not change while one looks: governor, power mode, names."""
    missing: Dict[str, str] = field(default_factory=dict)
    closers: List[Callable[[], None]] = field(default_factory=list)

    def add(self, kind: str, name: str, read: Callable[[], float], missing: Optional[str] = None) -> bool:
        """Take the gauge where it can be read; else keep the reason under the name `missing`, where one is given."""
        try:
            read()
        except SwitchedOff:
            pass
        except Unreadable as reason:
            if missing is not None:
                self.missing[missing] = str(reason)
            return False
        self.gauges.append(Gauge(kind, name, read))
        return True

    def fact(self, name: str, read: Callable[[], str]) -> None:
        """Take what `read` says, or the reason why it cannot."""
        try:
            self.facts[name] = read()
        except Unreadable as reason:
            self.missing[name] = str(reason)

    def close(self) -> None:
        for closer in self.closers:
            closer()


def text(path: Path) -> str:
    """The file's text without white space around it; raises `Unreadable`."""
    for attempt in (1, 2):
        try:
            return path.read_text(errors="replace").strip()
        except OSError as error:
            # Thermal zones of a Jetson say "try again" now and then, and always where what they measure is off.
            if error.errno != errno.EAGAIN:
                raise Unreadable(_reason(path, error)) from None
            if attempt == 2:
                raise SwitchedOff(f"{path} has no figure now: what it measures is switched off.") from None
    raise AssertionError("a loop that always returns or raises")


def number(path: Path, base: int = 10) -> float:
    """The file's whole number; raises `Unreadable`."""
    found = text(path)
    try:
        return float(int(found, base))
    except ValueError:
        raise Unreadable(f"{path} says {found[:40]!r}, which is no whole number.") from None


def reader(path: Path, scale: float = 1.0, base: int = 10) -> Callable[[], float]:
    """Reads the file's number, multiplied."""
    return lambda: number(path, base) * scale


def by_number(path: Path) -> Tuple[int, str]:
    """Sorts cpu10 behind cpu9."""
    digits = "".join(character for character in path.name if character.isdigit())
    return (int(digits) if digits else -1, path.name)


def _reason(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"{path} is not there."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{path} may not be read by user {os.getuid()}; root may."
    return f"{path} cannot be read: {error.strerror}."
