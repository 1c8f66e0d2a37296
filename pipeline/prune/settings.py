"""Settings that the result of stage `prune` depends on besides network, data and latency table."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PruneSettings:
    """At most one of `macs`, `params`, `latency` and `speedup` is a budget."""

    macs: float = 1.0
    """Share of multiply-accumulates to keep; 1.0 prunes nothing."""
    params: float = 1.0
    """Share of parameters to keep."""
    latency: float | None = None
    """Milliseconds of CPU time of one image."""
    speedup: float | None = None
    epochs: int = 0
    """Of recovery by distillation after the cut."""
    seed: int = 0
    channel_multiple: int = 1
    """Widths are rounded to multiples of this, for the target's kernels."""
    precision: str | None = None
    """Precision to time, if the budget is a time."""
    is_timed: bool = False
    """Whether the table's times can be confirmed here; then the measured ones decide."""

    @property
    def by_clock(self) -> bool:
        """Whether the budget is a time."""
        return self.latency is not None or self.speedup is not None

    @property
    def prunes(self) -> bool:
        return self.macs < 1 or self.params < 1 or self.by_clock
