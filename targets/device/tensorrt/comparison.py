"""Proven engines in several precisions, timed in turn on the GPU: which one is served, and how that is kept."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from targets.device.bench.bench import GpuTimed
from targets.device.model.variant import PRECISIONS

SCHEMA = 1
TIE = 0.05
"""A smaller precision may be this much slower than the fastest: less than that is within the noise."""
BLOCK_RUNS = 20
WARM_UP_ROUNDS, ROUNDS, LEAST_ROUNDS = 10, 30, 5
"""The first rounds are not counted: a GPU that idled raises its clocks meanwhile."""
MOST_SECONDS = 20.0
"""Of the rounds that count; large engines get fewer of them, and the least number whatever they take."""
KEY_LETTERS = 32


@dataclass(frozen=True)
class Rival:
    """One precision's engine, as far as it came."""

    precision: str
    engine_sha256: str
    """Empty where it could not be built."""
    median_ms: Optional[float]
    """Between CUDA events, of the engine's least batch; None where it was not timed."""
    left_out: str
    """Why it does not take part; empty where it does."""


@dataclass(frozen=True)
class Comparison:
    """What was timed, what was chosen, and by which terms the engines had been judged."""

    chosen: str
    """A precision."""
    place: str
    """Such as `Orin with TensorRT 10.3.0.30`."""
    batch: int
    """Of each run that was timed; 1 but on a DLA, which takes one shape only."""
    runs: int
    """Of each engine, that its median is of; 0 where only one was left, and none was timed."""
    rivals: Sequence[Rival]
    terms: Mapping[str, Any]
    """Hash of the shard, margin, and what becomes of an undecided one."""

    @property
    def text(self) -> str:
        """`fp16: 0.31 ms against 0.35 ms of int8, timed in turn on Orin with TensorRT 10.3.0.30`."""
        others = [rival for rival in self.rivals if rival.median_ms is not None and rival.precision != self.chosen]
        own = next(rival.median_ms for rival in self.rivals if rival.precision == self.chosen)
        if own is None or not others:
            return f"{self.chosen}: the only engine that is proven on {self.place}, so none was timed"
        against = " and ".join(f"{rival.median_ms:.3g} ms of {rival.precision}" for rival in others)
        is_tie = any(rival.median_ms is not None and rival.median_ms < own for rival in others)
        tie = f" (as fast within {TIE * 100:.0f} %, and smaller)" if is_tie else ""
        batch = "" if self.batch == 1 else f" at batch {self.batch}"
        return f"{self.chosen}: {own:.3g} ms against {against}{tie}, timed in turn{batch} on {self.place}"

    @property
    def left_out(self) -> str:
        """Every reason, as sentences; empty where all engines were compared."""
        return " ".join(f"Out of the comparison: {rival.left_out}" for rival in self.rivals if rival.left_out)

    def as_json(self) -> Dict[str, Any]:
        return {"schema": SCHEMA, "text": self.text, **asdict(self)}


def time_in_turn(sessions: Sequence[GpuTimed], note: Callable[[int, int], None]) -> List[List[float]]:
    """Milliseconds of every run of each session, block by block; `note` hears of each round and of how many."""
    times: List[List[float]] = [[] for _ in sessions]
    every = WARM_UP_ROUNDS + ROUNDS
    end = float("inf")
    for number in range(every):
        note(number + 1, every)
        if number == WARM_UP_ROUNDS:
            end = time.monotonic() + MOST_SECONDS
        if number >= WARM_UP_ROUNDS + LEAST_ROUNDS and time.monotonic() > end:
            break
        for place in range(len(sessions)):
            # Every engine follows every other one, so none always finds the caches of the same predecessor.
            index = (place + number) % len(sessions)
            block = sessions[index].gpu_ms(BLOCK_RUNS)
            if number >= WARM_UP_ROUNDS:
                times[index] += block
    return times


def fastest(medians: Mapping[str, float]) -> str:
    """The precision with the least of these milliseconds; within `TIE` of it, the smallest one."""
    limit = min(medians.values()) * (1 + TIE)
    return next(precision for precision in PRECISIONS if medians.get(precision, float("inf")) <= limit)


def medians_of(times: Mapping[str, Sequence[float]]) -> Dict[str, float]:
    return {precision: statistics.median(each) for precision, each in times.items()}


def file_of(cache: Path, engines: Mapping[str, str]) -> Path:
    """Where a comparison of these engines, hashes by precision, is kept."""
    text = json.dumps(dict(engines), sort_keys=True)
    return cache / f"comparison-{hashlib.sha256(text.encode()).hexdigest()[:KEY_LETTERS]}.json"


def read_comparison(file: Path, engines: Mapping[str, str]) -> Optional[Comparison]:
    """What an earlier start has kept of just these engines; None where that is nothing, or damaged."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        if raw.pop("schema") != SCHEMA:
            return None
        del raw["text"]
        found = Comparison(**{**raw, "rivals": [Rival(**each) for each in raw["rivals"]]})
        known = {rival.precision: rival.engine_sha256 for rival in found.rivals if rival.engine_sha256}
        # A figure that is none, or a choice that is not among them, shows here.
        return found if known == dict(engines) and found.text and found.chosen in known else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None
