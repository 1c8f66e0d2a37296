"""Check the requested time by measuring networks before hours of recovery.

A latency table is accurate to some percent. So the chosen network is timed as a whole; if it is slower than
requested, or so much faster that importance was lost needlessly, the budget is corrected by the error, and
another network is chosen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.errors import CompressionError
from pipeline.latency.subnetwork import Subnetwork
from pipeline.latency.table import Timing
from pipeline.progress import Report, ignore_share, portion
from pipeline.prune.by_latency import Clock
from pipeline.prune.settings import PruneSettings

MAX_TRIALS = 5


Time = Callable[[Subnetwork, Report], Timing]


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """The requested latency or speedup."""

    latency_us: float | None
    speedup: float | None

    @classmethod
    def of(cls, settings: PruneSettings) -> "Deadline":
        return cls(latency_us=None if settings.latency is None else settings.latency * 1e3, speedup=settings.speedup)

    def __str__(self) -> str:
        return f"{self.latency_us / 1e3:g} ms" if self.latency_us is not None else f"a speedup of {self.speedup:g}"

    def budget_us(self, unpruned_us: float) -> float:
        """Return the budget by a table in which the unpruned network takes `unpruned_us`."""
        return self.latency_us if self.latency_us is not None else unpruned_us / (self.speedup or 1.0)

    def excess(self, timing: Timing) -> float:
        """Return the share by which the pruned network is too slow; negative if it is faster than needed."""
        if self.latency_us is not None:
            return timing.pruned_ms * 1e3 / self.latency_us - 1
        return (self.speedup or 1.0) * timing.pruned_ms / timing.unpruned_ms - 1

    def reached(self, timing: Timing) -> str:
        """Return the result in the unit of the request."""
        if self.latency_us is not None:
            return f"{timing.pruned_ms:.3g} ms"
        return f"{timing.unpruned_ms / timing.pruned_ms:.3g}"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A network chosen by the table, and its measured time."""

    chosen: Subnetwork
    predicted_us: float
    budget_us: float
    """By the table."""
    timing: Timing | None
    """None if it is not timed here."""


def choose(
    clock: Clock, deadline: Deadline, unpruned_us: float, time: Time | None, report: Report = ignore_share
) -> tuple[Trial, tuple[Trial, ...]]:
    """Return the network that loses least importance among the timed ones that are fast enough, and all trials.

    Without `time`, return the table's choice. Raises `CompressionError` if none is fast enough.
    """
    budget = deadline.budget_us(unpruned_us)
    trials: list[Trial] = []
    while len(trials) < MAX_TRIALS:
        try:
            chosen = clock.fit(budget)
        except CompressionError:
            if not trials:
                raise
            break
        predicted = clock.latency_us(chosen)
        if any(trial.chosen == chosen for trial in trials):
            break
        timing = None
        if time is not None:
            # The number of trials is unknown: each counts half of the rest, and the last one all of it.
            share = 0.5 ** min(len(trials) + 1, MAX_TRIALS - 1)
            with portion(report, share, f"trial {len(trials) + 1}") as part:
                timing = time(chosen, part)
        trials.append(Trial(chosen=chosen, predicted_us=predicted, budget_us=budget, timing=timing))
        if timing is None:
            return trials[-1], tuple(trials)
        # Lower than predicted if it was too slow, so that another network is chosen; higher if it was too fast.
        budget = predicted / (1 + deadline.excess(timing))
    held = [trial for trial in trials if is_held(trial, deadline)]
    if not held:
        raise CompressionError(_unreached(deadline, trials))
    return min(held, key=lambda trial: clock.loss(trial.chosen)), tuple(trials)


def is_held(trial: Trial, deadline: Deadline) -> bool:
    """Whether the measurement confirms the time, within its noise."""
    return trial.timing is not None and deadline.excess(trial.timing) <= trial.timing.noise


def _unreached(deadline: Deadline, trials: Sequence[Trial]) -> str:
    timings = [trial.timing for trial in trials if trial.timing is not None]
    best = min(timings, key=deadline.excess)
    return (
        f"{deadline} cannot be met: the table predicts it, but of {len(timings)} networks timed on this machine the "
        f"closest reaches {deadline.reached(best)} (CPU time: unpruned {best.unpruned_ms:.3g} ms, pruned "
        f"{best.pruned_ms:.3g} ms). Request what was reached, or run again when the machine is less busy."
    )


def times_text(trial: Trial, unpruned_us: float, trials: Sequence[Trial], elsewhere: str | None) -> str:
    """Return the predicted and measured times of the chosen network as text; `elsewhere` is why it was not timed."""
    table = f"{trial.predicted_us / 1e3:.3g} of {unpruned_us / 1e3:.3g} ms by the latency table"
    if trial.timing is None:
        return f"{table}, not measured: {elsewhere or 'it was not requested'}"
    chosen = f" (the best of {len(trials)} networks timed)" if len(trials) > 1 else ""
    timing = trial.timing
    return f"{table}, {timing.pruned_ms:.3g} of {timing.unpruned_ms:.3g} ms measured{chosen}"
