"""The conditions of a measurement, and which of them make its results not comparable."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional

import numpy as np
from numpy.typing import NDArray

from targets.device.bench.sampler import Record
from targets.device.bench.statistics import median, quantiles
from targets.device.sensors.gauge import CLOCK, CPU_TIME, EVENTS, GPU_LOAD, POWER, STATE, TEMPERATURE

CLOCK_SPREAD = 0.05
"""The same spread as allowed for latencies, which follow the clock."""
RISE_CELSIUS = 3.0
"""Over this rise, leakage and thus power grow by a few percent, and throttling comes closer."""
OTHERS_SHARE = 0.1
GPU_LOAD_PERCENT = 10.0
MIN_SECONDS = 0.3
"""CPU time is counted in ticks of 10 ms, which is too coarse for shorter spans."""

Array = NDArray[np.float64]


def find_disturbances(record: Record, *, gpu: bool, heat: bool = True) -> List[str]:
    """Return the reasons why a run under these conditions is not comparable; empty if there are none.

    `gpu`: it ran on a GPU, so the GPU's clock counts, not the CPU's. `heat`: a rising temperature counts, too.
    """
    warming = _warming(record) if heat else []
    return [*_throttled(record), *_clocks(record, gpu=gpu), *warming, *_crowded(record, "")]


def find_prior_load(record: Record, *, gpu: bool) -> List[str]:
    """Return the reasons why the machine was not idle before the run; empty if it was."""
    return [*_busy_gpu(record, gpu), *_crowded(record, " before the start")]


def find_relevant_load(before: Record, run: Record, *, gpu: bool) -> List[str]:
    """Return the prior load that counts against the run: a GPU's load cannot be attributed once the run has begun.

    The CPU's load is also known during the run, and load that ended before has no effect.
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
    """Return what the available sensors did not report, with the reason."""
    found = record.silent()
    if {"all", "own"} <= set(record.of(CPU_TIME)) and others_share(record) is None:
        found["load of the CPU"] = f"measuring it takes {MIN_SECONDS} s; make the window longer."
    return found


def summary(record: Record) -> Dict[str, Any]:
    """Return clocks, temperatures, rails, throttling and load, ready for JSON."""
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
    """Return the fraction of all CPUs used by other programs and a hypervisor; None if the span is too short."""
    times = record.of(CPU_TIME)
    if not {"all", "own"} <= set(times) or len(times["all"]) < 2:
        return None
    span = float(record.seconds[-1] - record.seconds[0])
    if span < MIN_SECONDS:
        return None
    used = [float(times[name][-1] - times[name][0]) for name in ("all", "own")]
    return min(max((used[0] - used[1]) / (span * (os.cpu_count() or 1)), 0.0), 1.0)


def _throttled(record: Record) -> List[str]:
    events = [
        f"clocks were throttled: {name} counted {values[-1] - values[0]:.0f} events"
        for name, values in record.of(EVENTS).items()
        if values[-1] > values[0]
    ]
    states = [f"clocks were throttled: {name}" for name, values in record.of(STATE).items() if values.max() > 0]
    return [*events, *states]


def _clocks(record: Record, *, gpu: bool) -> List[str]:
    """Check the clock of the GPU, or of the fastest CPU core at each moment; idle cores do not count."""
    clocks = record.of(CLOCK)
    watched = [values for name, values in clocks.items() if (name == "gpu" if gpu else name.startswith("cpu"))]
    if not watched or len({len(values) for values in watched}) != 1:
        return []
    fastest = np.max(watched, axis=0)
    least, most = quantiles(fastest, (0.1, 0.9))
    if most <= least * (1 + CLOCK_SPREAD):
        return []
    what, cure = (
        ("GPU", "lock it (jetson_clocks, nvidia-smi -lgc)") if gpu else ("CPU", "set the governor to performance")
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
    return [f"the temperature of {name} rose by {rises[name]:.1f} K (at most {RISE_CELSIUS:.0f} K)"]


def _rise(values: Array) -> float:
    fifth = max(1, len(values) // 5)
    return float(values[-fifth:].mean() - values[:fifth].mean())


def _crowded(record: Record, when: str) -> List[str]:
    share = others_share(record)
    if share is None or share <= OTHERS_SHARE:
        return []
    return [f"other programs used {share:.0%} of the CPUs{when} (at most {OTHERS_SHARE:.0%})"]


def _range(values: Array) -> Dict[str, float]:
    return {"least": float(values.min()), "median": median(values), "most": float(values.max())}
