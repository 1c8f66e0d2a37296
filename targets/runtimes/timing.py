"""Time models against each other in one run, so that a busy neighbor slows them all alike."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.artifacts import Latency

# Enough inferences in a row for warm caches, as on a device that does nothing else.
BLOCK_SECONDS = 0.01
MODEL_SECONDS = 1.5
"""Aimed at for each model: small ones get many rounds, and the largest still the least number."""
LEAST_ROUNDS, MOST_ROUNDS = 7, 60
WARM_UP = 3

Clock = Callable[[], float]
Report = Callable[[float], None]
"""Told of each share of a run that is done; all of them sum to 1."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Seconds of every inference of one model, in the order in which they were run."""

    cpu: Sequence[float]
    wall: Sequence[float]
    threads: int

    def latency(self) -> Latency:
        """In milliseconds, medians and the 90th percentile."""
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
    """Median milliseconds of each inference; see `series_interleaved`."""
    return [series.latency() for series in series_interleaved(inferences, threads=threads, report=report)]


def series_interleaved(
    inferences: Sequence[Callable[[], object]], *, threads: int, report: Report | None = None
) -> list[Series]:
    """Seconds of each inference; all run in turn, block by block, over many rounds.

    With one thread ONNX Runtime works in the calling thread, whose CPU time nobody else's work can add to; with
    more the process's CPU time is taken, so nothing else should run in it.
    """
    clock = time.thread_time if threads == 1 else time.process_time
    blocks = [block_size(inference) for inference in inferences]
    rounds = _rounds([size * seconds for size, seconds in blocks])
    cpu: list[list[float]] = [[] for _ in inferences]
    wall: list[list[float]] = [[] for _ in inferences]
    for number in reported(rounds, report):
        for place in range(len(inferences)):
            # Every model follows every other one, so none always finds the caches of the same predecessor.
            index = (place + number) % len(inferences)
            _run_block(inferences[index], blocks[index][0], clock, cpu[index], wall[index])
    return [Series(cpu=c, wall=w, threads=threads) for c, w in zip(cpu, wall, strict=True)]


def reported(rounds: int, report: Report | None) -> Iterator[int]:
    """The numbers of the rounds; each that is done is told."""
    for number in range(rounds):
        yield number
        if report is not None:
            report(1 / rounds)


def block_size(inference: Callable[[], object]) -> tuple[int, float]:
    """Inferences per block, and the seconds of one, after warming up."""
    seconds = min(_seconds(inference) for _ in range(WARM_UP))
    return max(1, round(BLOCK_SECONDS / seconds)), seconds


def _seconds(inference: Callable[[], object]) -> float:
    started = time.perf_counter()
    inference()
    return max(time.perf_counter() - started, 1e-9)


def _rounds(block_seconds: Sequence[float]) -> int:
    affordable = MODEL_SECONDS * len(block_seconds) / max(sum(block_seconds), 1e-9)
    return int(min(max(affordable, LEAST_ROUNDS), MOST_ROUNDS))


def _run_block(inference: Callable[[], object], size: int, clock: Clock, cpu: list[float], wall: list[float]) -> None:
    for _ in range(size):
        wall_started, cpu_started = time.perf_counter(), clock()
        inference()
        cpu.append(clock() - cpu_started)
        wall.append(time.perf_counter() - wall_started)
