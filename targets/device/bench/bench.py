"""Measure a model on this machine: latency in a stable window, energy per inference, and the conditions.

First the idle machine is observed for up to 2 s. Then windows of a tenth of the requested time, with at least 30 runs,
are measured until ten consecutive ones show neither drift nor steps (`statistics`), and no changed or throttled
clocks, rising temperature or other programs (`conditions`), or until the time limit. Everything before is the warm-up,
always including the first window. The keys of the result:

- `schema`: 1. `stable`: false if there are `reasons`; the numbers are present anyway.
- `shape`; `runs` and `seconds` of the ten windows; `warm_up`: `runs` and `seconds` before them.
- `latency_ms`: `p50`, `p90`, `p99` (null below 299 runs), `mean`, `least` of those runs, including copies to a GPU.
- `windows_p50_ms`: of each window, in order. `images_per_second` of one caller.
- `gpu_ms`: like latency, and `runs`, between CUDA events, without copies, measured after the ten windows;
  null for a CPU, or if `shape` does not have the engine's minimum batch.
- `energy`: `source`, `covers`, `method` (counter or sampled), `mean_w`, `idle_w`, `joules_per_inference` (one run of
  `shape`), and `above_idle`, its joules above idle power, null if other programs kept the machine busy; all
  null if no source is readable.
  `energy_sources`: the same for all sources, the most informative first.
- `conditions` of the ten windows: `clocks_mhz`, `temperatures_c`, `rails_w`, `throttle_events`, `throttle_states`,
  `cpu_of_others` (0 to 1), `gpu_load_percent`, and `facts` (governor, power mode, names). `idle`: before the load.
- `missing`: what cannot be read here, with the reasons.
- `sampling` of the sensors: requested `hertz`, `readings` in the ten windows, `cpu_share` of one CPU that it used.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Protocol, Sequence, Tuple, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from targets.device.bench.conditions import (
    explain_missing,
    find_disturbances,
    find_prior_load,
    find_relevant_load,
    summary,
)
from targets.device.bench.sampler import ROOT, Record, Sampler, find_sensors
from targets.device.bench.statistics import MIN_RUNS, WINDOWS, find_instability, median, quantiles
from targets.device.model.session import Inference
from targets.device.sensors.gauge import ENERGY, Source, Unreadable

SCHEMA = 1
SECONDS = 10.0
"""Default length of the stable window."""
LIMIT = 6.0
"""Time limit for finding the stable window, as a multiple of its length."""
IDLE_SECONDS = 2.0
WINDOW_RUNS = -(-MIN_RUNS // WINDOWS)
"""Minimum runs per window, so that ten windows have enough for the 99th percentile."""

Array = NDArray[np.float64]


@runtime_checkable
class GpuTimed(Protocol):
    """A session on a GPU that times runs of its minimum batch with CUDA events."""

    @property
    def least_batch(self) -> int: ...

    def gpu_ms(self, runs: int) -> List[float]: ...


@dataclass(frozen=True)
class Window:
    """Consecutive runs; times are those of `time.perf_counter`."""

    start: float
    end: float
    milliseconds: Array
    """Latency of each run."""


def bench(
    session: Inference,
    *,
    shape: Sequence[int],
    seconds: float = SECONDS,
    limit: Optional[float] = None,
    root: Path = ROOT,
) -> Dict[str, Any]:
    """Run images of `shape` [N, C, H, W] until results are stable for `seconds`; return a JSON-ready result.

    The keys are described above. `limit`: time limit in seconds, by default 6 times `seconds`. `root` is for another
    machine's files. Raises what `session` raises, including `ValueError` for an unsupported shape.
    """
    limit = LIMIT * seconds if limit is None else limit
    images = _images(shape)
    gpu = isinstance(session, GpuTimed)
    sensors = find_sensors(root, gpu=gpu)
    missing = dict(sensors.missing)
    try:
        with Sampler(sensors) as sampler:
            started = time.perf_counter()
            time.sleep(min(IDLE_SECONDS, seconds))
            idle = sampler.between(started, time.perf_counter())
            before, block, reasons = _windows(session, images, seconds, limit, sampler, gpu=gpu)
            timed, unsteady_gpu = _time_on_gpu(session, shape[0], seconds / 2, missing)
        record = sampler.between(block[0].start, block[-1].end)
        missing.update(explain_missing(record))
        occupants = find_prior_load(idle, gpu=gpu)
        if occupants and sensors.sources:
            missing["idle power"] = f"the machine was not idle: {'; '.join(occupants)}."
        per_run = _busy_seconds(block) / _runs(block)
        energies = _energies(sensors.sources, record, None if occupants else idle, per_run, missing)
        reasons = [*find_relevant_load(idle, record, gpu=gpu), *reasons, *unsteady_gpu]
        return {
            "schema": SCHEMA,
            "stable": not reasons,
            "reasons": reasons,
            "shape": list(shape),
            **_latency(before, block, shape[0]),
            "gpu_ms": timed,
            "energy": energies[0] if energies else None,
            "energy_sources": energies,
            "conditions": {**summary(record), "facts": sensors.facts},
            "idle": {"seconds": min(IDLE_SECONDS, seconds), **summary(idle)},
            "missing": missing,
            "sampling": {
                "hertz": sampler.hertz,
                "readings": len(record.seconds),
                "cpu_share": sampler.reading_seconds / sampler.seconds,
            },
        }
    finally:
        sensors.close()


def percentiles(milliseconds: Array) -> Dict[str, Any]:
    """Return `p50`, `p90`, `p99`, `mean` and `least`; `p99` is None for too few runs."""
    half, most, tail = quantiles(milliseconds, (0.5, 0.9, 0.99))
    return {
        "p50": half,
        "p90": most,
        "p99": tail if len(milliseconds) >= MIN_RUNS else None,
        "mean": float(milliseconds.mean()),
        "least": float(milliseconds.min()),
    }


def _images(shape: Sequence[int]) -> NDArray[np.float32]:
    """Return values in the range of normalized images, without slow denormal numbers.

    It does not use numpy.random, which the container images omit.
    """
    values = 2 * np.sin(np.arange(1, int(np.prod(shape)) + 1, dtype=np.float64) * 0.7)
    return values.reshape(tuple(shape)).astype(np.float32)


def _windows(
    session: Inference, images: NDArray[np.float32], seconds: float, limit: float, sampler: Sampler, *, gpu: bool
) -> Tuple[List[Window], List[Window], List[str]]:
    """Return the warm-up, the ten stable or last windows, and the reasons if they are not stable."""
    windows: List[Window] = []
    deadline = time.perf_counter() + limit
    while True:
        windows.append(_window(session, images, seconds / WINDOWS, deadline))
        # The first run includes loading and allocation; it counts only if there is no time for more.
        first = max(len(windows) - WINDOWS, min(1, len(windows) - 1))
        before, block = windows[:first], windows[first:]
        reasons = _reasons(block, sampler, gpu=gpu)
        if not reasons:
            return before, block, []
        if time.perf_counter() >= deadline:
            return before, block, [f"no stable window within {limit:.0f} s", *reasons]


def _window(session: Inference, images: NDArray[np.float32], seconds: float, deadline: float) -> Window:
    times = []
    start = time.perf_counter()
    while True:
        before = time.perf_counter()
        session.infer(images)
        now = time.perf_counter()
        times.append((now - before) * 1e3)
        if now >= deadline or (now - start >= seconds and len(times) >= WINDOW_RUNS):
            return Window(start, now, np.array(times, np.float64))


def _reasons(block: Sequence[Window], sampler: Sampler, *, gpu: bool) -> List[str]:
    found = []
    if len(block) < WINDOWS:
        found.append(f"only {len(block)} of {WINDOWS} windows fit into the time; allow more seconds")
    if _runs(block) < MIN_RUNS:
        found.append(f"{_runs(block)} runs are too few for the 99th percentile, which needs {MIN_RUNS}")
    if len(block) < WINDOWS // 2:
        return found
    record = sampler.between(block[0].start, block[-1].end)
    return [*found, *find_instability([window.milliseconds for window in block]), *find_disturbances(record, gpu=gpu)]


def _time_on_gpu(
    session: Inference, batch: int, seconds: float, missing: Dict[str, str]
) -> Tuple[Optional[Dict[str, Any]], List[str]]:
    """Time runs with CUDA events for at least `seconds`; return the times and why they are not stable."""
    if not isinstance(session, GpuTimed):
        return None, []
    if batch != session.least_batch:
        missing["gpu_ms"] = (
            f"only the engine's minimum batch, {session.least_batch}, is timed with events; this is {batch}."
        )
        return None, []
    windows = []
    for _ in range(WINDOWS):
        times: List[float] = []
        end = time.perf_counter() + seconds / WINDOWS
        while not times or time.perf_counter() < end:
            times += session.gpu_ms(WINDOW_RUNS)
        windows.append(np.array(times, np.float64))
    every = np.concatenate(windows)
    reasons = [f"on the GPU alone, {reason}" for reason in find_instability(windows)]
    return {**percentiles(every), "runs": len(every)}, reasons


def _latency(before: Sequence[Window], block: Sequence[Window], batch: int) -> Dict[str, Any]:
    return {
        "runs": _runs(block),
        "seconds": _busy_seconds(block),
        "warm_up": {"runs": _runs(before), "seconds": _busy_seconds(before)},
        "latency_ms": percentiles(np.concatenate([window.milliseconds for window in block])),
        "windows_p50_ms": [median(window.milliseconds) for window in block],
        "images_per_second": batch * _runs(block) / _busy_seconds(block),
    }


def _energies(
    sources: Sequence[Source], record: Record, idle: Optional[Record], seconds: float, missing: Dict[str, str]
) -> List[Dict[str, Any]]:
    """Return each source's energy for a run of `seconds`; add the reasons of unreadable ones to `missing`."""
    found = []
    for source in sources:
        try:
            watts = record.watts(source)
            before = None if idle is None else idle.watts(source)
        except Unreadable as reason:
            missing[f"energy of {source.name}"] = str(reason)
            continue
        found.append(
            {
                "source": source.name,
                "covers": source.covers,
                "method": "counter" if source.kind == ENERGY else "sampled",
                "mean_w": watts,
                "idle_w": before,
                "joules_per_inference": watts * seconds,
                "above_idle": None if before is None else (watts - before) * seconds,
            }
        )
    return found


def _runs(windows: Sequence[Window]) -> int:
    return sum(len(window.milliseconds) for window in windows)


def _busy_seconds(windows: Sequence[Window]) -> float:
    return sum(window.end - window.start for window in windows)
