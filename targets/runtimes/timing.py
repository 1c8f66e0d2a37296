"""Time several models interleaved in one run, so that other load on the machine slows all of them equally."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.artifacts import Latency

# Enough consecutive inferences for warm caches, as on a dedicated device.
BLOCK_SECONDS = 0.01
MODEL_SECONDS = 1.5
"""Target time per model: small models get many rounds, large ones at least `MIN_ROUNDS`."""
MIN_ROUNDS, MAX_ROUNDS = 7, 60
WARM_UP = 3

Clock = Callable[[], float]
Report = Callable[[float], None]
"""Receives each finished share of a run; the shares sum to 1."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Seconds of every inference of one model, in the order in which they were run."""

    cpu: Sequence[float]
    wall: Sequence[float]
    threads: int

    def latency(self) -> Latency:
        """Return medians and the 90th percentile, in milliseconds."""
        return Latency(
            cpu_ms=statistics.median(self.cpu) * 1e3,
            wall_ms=statistics.median(self.wall) * 1e3,
            wall_p90_ms=statistics.quantiles(self.wall, n=10, method="inclusive")[-1] * 1e3,
            threads=self.threads,
            runs=len(self.cpu),
        )


def time_interleaved(
    inferences: Sequence[Callable[[], object]], *, threads: int, report: Report | None = None
) -> list[Latency]:
    """Return the latency of each inference; see `series_interleaved`."""
    return [series.latency() for series in series_interleaved(inferences, threads=threads, report=report)]


def series_interleaved(
    inferences: Sequence[Callable[[], object]], *, threads: int, report: Report | None = None
) -> list[Series]:
    """Return the seconds of each inference; all run in turn, block by block, over many rounds.

    With one thread, ONNX Runtime works in the calling thread, and that thread's CPU time is measured. With more, it is
    the process's CPU time, so nothing else should run in the process.
    """
    clock = time.thread_time if threads == 1 else time.process_time
    blocks = [block_size(inference) for inference in inferences]
    rounds = _rounds([size * seconds for size, seconds in blocks])
    cpu: list[list[float]] = [[] for _ in inferences]
    wall: list[list[float]] = [[] for _ in inferences]
    for number in reported(rounds, report):
        for place in range(len(inferences)):
            # The order rotates, so that no model always runs after the same predecessor's caches.
            index = (place + number) % len(inferences)
            _run_block(inferences[index], blocks[index][0], clock, cpu[index], wall[index])
    return [Series(cpu=c, wall=w, threads=threads) for c, w in zip(cpu, wall, strict=True)]


def reported(rounds: int, report: Report | None) -> Iterator[int]:
    """Yield the round numbers and report each finished round."""
    for number in range(rounds):
        yield number
        if report is not None:
            report(1 / rounds)


def block_size(inference: Callable[[], object]) -> tuple[int, float]:
    """Return the number of inferences per block and the seconds of one inference, after a warm-up."""
    seconds = min(_seconds(inference) for _ in range(WARM_UP))
    return max(1, round(BLOCK_SECONDS / seconds)), seconds


def _seconds(inference: Callable[[], object]) -> float:
    started = time.perf_counter()
    inference()
    return max(time.perf_counter() - started, 1e-9)


def _rounds(block_seconds: Sequence[float]) -> int:
    affordable = MODEL_SECONDS * len(block_seconds) / max(sum(block_seconds), 1e-9)
    return int(min(max(affordable, MIN_ROUNDS), MAX_ROUNDS))


def _run_block(inference: Callable[[], object], size: int, clock: Clock, cpu: list[float], wall: list[float]) -> None:
    for _ in range(size):
        wall_started, cpu_started = time.perf_counter(), clock()
        inference()
        cpu.append(clock() - cpu_started)
        wall.append(time.perf_counter() - wall_started)
