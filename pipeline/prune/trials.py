"""The time that was asked for, held against the measured clock before hours of recovery are spent.

A latency table is right within some per cent. So what is chosen by it is timed as a whole; where it takes longer than
was asked, or so much less that importance was given away, the budget by the table is corrected by the error seen, and
another network is chosen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.errors import CompressionError
from pipeline.latency.subnetwork import Subnetwork
from pipeline.latency.table import Timing
from pipeline.progress import Report, portion, unheard
from pipeline.prune.by_latency import Clock
from pipeline.prune.settings import PruneSettings

MOST_TRIALS = 5


Time = Callable[[Subnetwork, Report], Timing]


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """What was asked for: one of the two."""

    latency_us: float | None
    speedup: float | None

    @classmethod
    def of(cls, settings: PruneSettings) -> "Deadline":
        return cls(latency_us=None if settings.latency is None else settings.latency * 1e3, speedup=settings.speedup)

    def __str__(self) -> str:
        return f"{self.latency_us / 1e3:g} ms" if self.latency_us is not None else f"a speedup of {self.speedup:g}"

    def budget_us(self, unpruned_us: float) -> float:
        """By a table in which the unpruned network takes `unpruned_us`."""
        return self.latency_us if self.latency_us is not None else unpruned_us / (self.speedup or 1.0)

    def excess(self, timing: Timing) -> float:
        """The share by which the pruned network takes too long; negative where time is left."""
        if self.latency_us is not None:
            return timing.pruned_ms * 1e3 / self.latency_us - 1
        return (self.speedup or 1.0) * timing.pruned_ms / timing.unpruned_ms - 1

    def reached(self, timing: Timing) -> str:
        """What came of it, in the unit of what was asked."""
        if self.latency_us is not None:
            return f"{timing.pruned_ms:.3g} ms"
        return f"{timing.unpruned_ms / timing.pruned_ms:.3g}"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A network that was chosen by the table, and what the clock said."""

    chosen: Subnetwork
    predicted_us: float
    budget_us: float
    """By the table."""
    timing: Timing | None
    """None where it is not timed here."""


def choose(
    clock: Clock, deadline: Deadline, unpruned_us: float, time: Time | None, report: Report = unheard
) -> tuple[Trial, tuple[Trial, ...]]:
    """The network that loses least importance of those that were timed and are fast enough, and all trials.

    Without `time` it is the table's. Raises `CompressionError` where none is fast enough.
    """
    budget = deadline.budget_us(unpruned_us)
    trials: list[Trial] = []
    while len(trials) < MOST_TRIALS:
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
            # How many trials it takes nobody knows: each counts half of what is left, and the last one all of it.
            share = 0.5 ** min(len(trials) + 1, MOST_TRIALS - 1)
            with portion(report, share, f"trial {len(trials) + 1}") as part:
                timing = time(chosen, part)
        trials.append(Trial(chosen=chosen, predicted_us=predicted, budget_us=budget, timing=timing))
        if timing is None:
            return trials[-1], tuple(trials)
        # Less than predicted where it was too slow, so that another network is chosen; more where time was left.
        budget = predicted / (1 + deadline.excess(timing))
    held = [trial for trial in trials if is_held(trial, deadline)]
    if not held:
        raise CompressionError(_unreached(deadline, trials))
    return min(held, key=lambda trial: clock.loss(trial.chosen)), tuple(trials)


def is_held(trial: Trial, deadline: Deadline) -> bool:
    """Whether the clock has confirmed it, within its noise."""
    return trial.timing is not None and deadline.excess(trial.timing) <= trial.timing.noise


def _unreached(deadline: Deadline, trials: Sequence[Trial]) -> str:
    timings = [trial.timing for trial in trials if trial.timing is not None]
    best = min(timings, key=deadline.excess)
    return (
        f"{deadline} cannot be held: the table promises it, but of {len(timings)} networks timed on this machine the "
        f"nearest reaches {deadline.reached(best)} (CPU time: unpruned {best.unpruned_ms:.3g} ms, pruned "
        f"{best.pruned_ms:.3g} ms). Ask for what was reached, or run again when the machine is less busy."
    )


def times_text(trial: Trial, unpruned_us: float, trials: Sequence[Trial], elsewhere: str | None) -> str:
    """What the table and the clock say of the chosen network, in words; `elsewhere` is why the clock says nothing."""
    table = f"{trial.predicted_us / 1e3:.3g} of {unpruned_us / 1e3:.3g} ms by the latency table"
    if trial.timing is None:
        return f"{table}, not confirmed by the clock: {elsewhere or 'it was not asked'}"
    chosen = f" (the best of {len(trials)} networks timed)" if len(trials) > 1 else ""
    timing = trial.timing
    return f"{table}, {timing.pruned_ms:.3g} of {timing.unpruned_ms:.3g} ms by the clock{chosen}"
