"""Under which conditions figures were measured, and which of these make them unfit to compare."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional

import numpy as np
from numpy.typing import NDArray

from targets.device.bench.sampler import Record
from targets.device.bench.statistics import median, quantiles
from targets.device.sensors.gauge import CLOCK, CPU_TIME, EVENTS, GPU_LOAD, POWER, STATE, TEMPERATURE

CLOCK_SPREAD = 0.05
"""Latency follows the clock, so this is the spread that latencies are allowed, too."""
RISE_CELSIUS = 3.0
"""Leakage, and with it power, grows by a few percent in so many; throttling comes nearer."""
OTHERS_SHARE = 0.1
GPU_LOAD_PERCENT = 10.0
LEAST_SECONDS = 0.3
"""CPU time is counted in ticks of 10 ms; in less than this they are too coarse."""

Array = NDArray[np.float64]


def find_disturbances(record: Record, *, gpu: bool, heat: bool = True) -> List[str]:
    """Why a run under these conditions is not to be compared, in words; nothing where they were quiet.

    `gpu`: it ran there, so its clock counts, not the CPU's. `heat`: a rising temperature counts, too.
    """
    warming = _warming(record) if heat else []
    return [*_throttled(record), *_clocks(record, gpu=gpu), *warming, *_crowded(record, "")]


def find_prior_load(record: Record, *, gpu: bool) -> List[str]:
    """Why the machine was not idle before the run, in words; nothing where it was."""
    return [*_busy_gpu(record, gpu), *_crowded(record, " before the start")]


def find_relevant_load(before: Record, run: Record, *, gpu: bool) -> List[str]:
    """What of that counts against the run: on a GPU nobody tells whose load it is once the run has begun.

    The CPU's is known during the run, too, and what ended before it did no harm.
    """
    return find_prior_load(before, gpu=gpu) if others_share(run) is None else _busy_gpu(before, gpu)


def _busy_gpu(record: Record, gpu: bool) -> List[str]:
    loads = record.of(GPU_LOAD) if gpu else {}
    return [
        f"the GPU was {values.mean():.0f} % busy before the start (at most {GPU_LOAD_PERCENT:.0f} %)"
        for values in loads.values()
        if values.mean() > GPU_LOAD_PERCENT
    ]


def explain_missing(record: Record) -> Dict[str, str]:
    """What sensors that are there left open, with the reason."""
    found = record.silent()
    if {"all", "own"} <= set(record.of(CPU_TIME)) and others_share(record) is None:
        found["load of the CPU"] = f"it takes {LEAST_SECONDS} s to tell; make the window longer."
    return found


def summary(record: Record) -> Dict[str, Any]:
    """Clocks, temperatures, rails, throttling and load of the span, ready for JSON."""
    share = others_share(record)
    return {
        "clocks_mhz": {name: _range(values) for name, values in record.of(CLOCK).items()},
        "temperatures_c": {
            name: {"first": float(values[0]), "last": float(values[-1]), "most": float(values.max())}
            for name, values in record.of(TEMPERATURE).items()
        },
        "rails_w": {name: _range(values) for name, values in record.of(POWER).items()},
        "throttle_events": {name: float(values[-1] - values[0]) for name, values in record.of(EVENTS).items()},
        "throttle_states": {name: float(values.max()) for name, values in record.of(STATE).items()},
        "cpu_of_others": share,
        "gpu_load_percent": {name: float(values.mean()) for name, values in record.of(GPU_LOAD).items()},
    }


def others_share(record: Record) -> Optional[float]:
    """What other programs, and a hypervisor, took of all CPUs: 0 to 1; None where the span is too short to tell."""
    times = record.of(CPU_TIME)
    if not {"all", "own"} <= set(times) or len(times["all"]) < 2:
        return None
    span = float(record.seconds[-1] - record.seconds[0])
    if span < LEAST_SECONDS:
        return None
    used = [float(times[name][-1] - times[name][0]) for name in ("all", "own")]
    return min(max((used[0] - used[1]) / (span * (os.cpu_count() or 1)), 0.0), 1.0)


def _throttled(record: Record) -> List[str]:
    events = [
        f"clocks were cut: {name} counted {values[-1] - values[0]:.0f} events"
        for name, values in record.of(EVENTS).items()
        if values[-1] > values[0]
    ]
    states = [f"clocks were cut: {name}" for name, values in record.of(STATE).items() if values.max() > 0]
    return [*events, *states]


def _clocks(record: Record, *, gpu: bool) -> List[str]:
    """Of the GPU, or of the fastest CPU at each moment: idle ones may do as they like."""
    clocks = record.of(CLOCK)
    watched = [values for name, values in clocks.items() if (name == "gpu" if gpu else name.startswith("cpu"))]
    if not watched or len({len(values) for values in watched}) != 1:
        return []
    fastest = np.max(watched, axis=0)
    least, most = quantiles(fastest, (0.1, 0.9))
    if most <= least * (1 + CLOCK_SPREAD):
        return []
    what, cure = (
        ("GPU", "lock it (jetson_clocks, nvidia-smi -lgc)") if gpu else ("CPU", "set the governor performance")
    )
    return [
        f"the clock of the {what} changed between {least:.0f} and {most:.0f} MHz (at most {CLOCK_SPREAD:.0%}); {cure}"
    ]


def _warming(record: Record) -> List[str]:
    rises = {name: _rise(values) for name, values in record.of(TEMPERATURE).items()}
    if not rises:
        return []
    name = max(rises, key=lambda key: rises[key])
    if rises[name] <= RISE_CELSIUS:
        return []
    return [f"the temperature {name} rose by {rises[name]:.1f} K (at most {RISE_CELSIUS:.0f} K)"]


def _rise(values: Array) -> float:
    fifth = max(1, len(values) // 5)
    return float(values[-fifth:].mean() - values[:fifth].mean())


def _crowded(record: Record, when: str) -> List[str]:
    share = others_share(record)
    if share is None or share <= OTHERS_SHARE:
        return []
    return [f"other programs took {share:.0%} of the CPUs{when} (at most {OTHERS_SHARE:.0%})"]


def _range(values: Array) -> Dict[str, float]:
    return {"least": float(values.min()), "median": median(values), "most": float(values.max())}
