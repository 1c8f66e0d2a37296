"""Sample this machine's sensors during a run: power, clocks, temperatures and load."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Callable, Dict, List, Optional, Tuple, Type

import numpy as np
from numpy.typing import NDArray

from targets.device.sensors.cpu import find_processor, find_rapl
from targets.device.sensors.gauge import ENERGY, Sensors, Source, Unreadable
from targets.device.sensors.ina import find_rails
from targets.device.sensors.jetson import find_jetson, is_jetson
from targets.device.sensors.thermal import find_thermal

HERTZ = 10.0
"""One reading of six rails over I2C takes milliseconds, and the chips average over about as long."""
STOP_SECONDS = 5.0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Record:
    """Sensor readings of a time span."""

    seconds: Array
    """Times [T] of `time.perf_counter`."""
    values: Dict[Tuple[str, str], Array]
    """Readings [T] by kind and name; NaN if the sensor could not be read."""

    def of(self, kind: str) -> Dict[str, Array]:
        """Return the valid readings of each sensor of a kind, by name; sensors without any are omitted."""
        found = {name: values[~np.isnan(values)] for (which, name), values in self.values.items() if which == kind}
        return {name: values for name, values in found.items() if len(values) > 0}

    def silent(self) -> Dict[str, str]:
        """Return the sensors without any valid reading, with the reason."""
        return {
            f"{kind} of {name}": "the sensor had no reading in the whole window."
            for (kind, name), values in self.values.items()
            if np.isnan(values).all()
        }

    def watts(self, source: Source) -> float:
        """Return the mean power of the source in watts; raise `Unreadable` for too few readings."""
        wanted = [self.values.get((source.kind, name)) for name in source.gauges]
        known = [values for values in wanted if values is not None]
        if len(known) < len(wanted) or len(self.seconds) < 2:
            raise Unreadable(f"{source.name} was read {len(self.seconds)} times; at least two are needed.")
        total = np.sum(known, axis=0)
        answered = ~np.isnan(total)
        times, values = self.seconds[answered], total[answered]
        if len(times) < 2:
            raise Unreadable(f"{source.name} had {len(times)} valid readings; at least two are needed.")
        span = float(times[-1] - times[0])
        if source.kind == ENERGY:
            if values[-1] <= values[0]:
                raise Unreadable(f"the counter of {source.name} did not change in {span:.1f} s.")
            return float(values[-1] - values[0]) / span
        return float(np.sum((values[1:] + values[:-1]) / 2 * np.diff(times))) / span


class Sampler:
    """A thread that samples the sensors; a context manager."""

    def __init__(self, sensors: Sensors, hertz: float = HERTZ) -> None:
        self.sensors = sensors
        self.hertz = hertz
        self.reading_seconds = 0.0
        """CPU time of the readings so far, which the run loses."""
        self._started = 0.0
        self._rows: List[Tuple[float, List[float]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sensors", daemon=True)

    @property
    def seconds(self) -> float:
        """Seconds since the first reading began."""
        return time.perf_counter() - self._started

    def between(self, start: float, end: float) -> Record:
        """Return the readings of a span of `time.perf_counter`."""
        rows = [row for row in list(self._rows) if start <= row[0] <= end]
        table = np.array([values for _, values in rows], np.float64).reshape(len(rows), len(self.sensors.gauges))
        keys = [(gauge.kind, gauge.name) for gauge in self.sensors.gauges]
        return Record(
            seconds=np.array([seconds for seconds, _ in rows], np.float64),
            values={key: table[:, index] for index, key in enumerate(keys)},
        )

    def __enter__(self) -> Sampler:
        self._started = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._stop.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        due = time.perf_counter()
        is_last = False
        while not is_last:
            # One more reading after the stop, so that even the shortest run has one at its end.
            is_last = self._stop.is_set()
            self._read()
            # After a slow reading, the next one is not early to catch up.
            due = max(due + 1 / self.hertz, time.perf_counter())
            if not is_last:
                self._stop.wait(due - time.perf_counter())

    def _read(self) -> None:
        before = time.thread_time()
        started = time.perf_counter()
        values = [_value(gauge.read) for gauge in self.sensors.gauges]
        # The middle of the sequential readings.
        self._rows.append(((started + time.perf_counter()) / 2, values))
        self.reading_seconds += time.thread_time() - before


def _value(read: Callable[[], float]) -> float:
    try:
        return read()
    except Unreadable:
        return float("nan")


ROOT = Path("/")


def find_sensors(root: Path = ROOT, *, gpu: bool) -> Sensors:
    """Return the sensors readable below `root`, and with `gpu` those of NVML. Close it after use."""
    sensors = Sensors()
    find_processor(root, sensors)
    find_thermal(root, sensors)
    if is_jetson(root):
        find_rails(root, sensors)
        find_jetson(root, sensors)
    if gpu:
        # An image with ONNX Runtime has no GPU code.
        from targets.device.sensors.nvml import find_nvml

        find_nvml(sensors)
    find_rapl(root, sensors)
    return sensors
