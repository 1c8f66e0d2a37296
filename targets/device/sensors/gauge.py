"""Sensors and their small text files: each gives a number, or the reason why there is none."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

# Kinds of gauges, with their units.
POWER = "power_w"
ENERGY = "energy_j"
"""A monotonic counter."""
CLOCK = "clock_mhz"
TEMPERATURE = "temperature_c"
EVENTS = "throttle_events"
"""A counter of throttling events; it must not increase."""
STATE = "throttle_state"
"""Above 0 while clocks are throttled."""
GPU_LOAD = "gpu_load_percent"
CPU_TIME = "cpu_seconds"
"""Two counters: "all" programs together, and this process's "own"."""


class Unreadable(Exception):
    """A value cannot be read here; the message is the reason."""


class SwitchedOff(Unreadable):
    """The measured unit is powered off now, e.g. a Jetson's idle GPU; it may be readable later."""


@dataclass(frozen=True)
class Gauge:
    """A sensor."""

    kind: str
    name: str
    read: Callable[[], float]
    """Returns the current value; raises `Unreadable`."""


@dataclass(frozen=True)
class Source:
    """A source of power or energy, as the sum of gauges."""

    name: str
    covers: str
    """What it includes and what it does not, in words."""
    kind: str
    """POWER or ENERGY."""
    gauges: Tuple[str, ...]


@dataclass
class Sensors:
    """The available sensors, and the reasons for the missing ones."""

    gauges: List[Gauge] = field(default_factory=list)
    sources: List[Source] = field(default_factory=list)
    """The most informative one first."""
    facts: Dict[str, str] = field(default_factory=dict)
    """Constant values: governor, power mode, names."""
    missing: Dict[str, str] = field(default_factory=dict)
    closers: List[Callable[[], None]] = field(default_factory=list)

    def add(self, kind: str, name: str, read: Callable[[], float], missing: Optional[str] = None) -> bool:
        """Add the gauge and return True if it is readable; otherwise store the reason under `missing`, if given."""
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
        """Add the fact that `read` returns, or the reason why it is missing."""
        try:
            self.facts[name] = read()
        except Unreadable as reason:
            self.missing[name] = str(reason)

    def close(self) -> None:
        for closer in self.closers:
            closer()


def text(path: Path) -> str:
    """Return the file's stripped text; raise `Unreadable`."""
    for attempt in (1, 2):
        try:
            return path.read_text(errors="replace").strip()
        except OSError as error:
            # Thermal zones of a Jetson return EAGAIN occasionally, and always if the measured unit is off.
            if error.errno != errno.EAGAIN:
                raise Unreadable(_reason(path, error)) from None
            if attempt == 2:
                raise SwitchedOff(f"{path} has no value now: the measured unit is switched off.") from None
    raise AssertionError("a loop that always returns or raises")


def number(path: Path, base: int = 10) -> float:
    """Return the file's integer; raise `Unreadable`."""
    found = text(path)
    try:
        return float(int(found, base))
    except ValueError:
        raise Unreadable(f"{path} contains {found[:40]!r}, which is not an integer.") from None


def reader(path: Path, scale: float = 1.0, base: int = 10) -> Callable[[], float]:
    """Return a reader of the file's number times `scale`."""
    return lambda: number(path, base) * scale


def by_number(path: Path) -> Tuple[int, str]:
    """Sort key that puts cpu10 after cpu9."""
    digits = "".join(character for character in path.name if character.isdigit())
    return (int(digits) if digits else -1, path.name)


def _reason(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"{path} does not exist."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{path} is not readable for user {os.getuid()}; run as root."
    return f"{path} cannot be read: {error.strerror}."
