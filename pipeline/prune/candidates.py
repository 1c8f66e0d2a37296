"""Several cuts that reach a time, with different weights of whole blocks against single channels.

Importance is measured before any training, and blocks and channels recover differently: of cuts of ResNet-20
with the same latency, those that removed blocks lost less than half as much after recovery as those that removed
channels, whichever had lost less before. No factor is right for all networks, so several are tried
(`pipeline.prune.tournament`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from pipeline.artifacts import Architecture
from pipeline.latency.subnetwork import Subnetwork, removable_blocks, sites
from pipeline.latency.table import Pace, Timing
from pipeline.models.surgery import Group, channel_groups, remove_blocks, remove_channels
from pipeline.progress import Progress, Report, portion, reporting
from pipeline.prune.by_cost import least_important
from pipeline.prune.by_latency import Clock, Losses
from pipeline.prune.importance import Scores, block_importance, channel_importance
from pipeline.prune.report import losses_of
from pipeline.prune.trials import Deadline, Time, Trial, choose

BLOCK_FACTORS = (1.0, 0.25, 3.0)
"""Factors for a block's importance; the first one is used if nothing can be tried."""

Identity = tuple[frozenset[str], tuple[int, ...]]
"""Removed blocks, and widths."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A network that meets the requested time."""

    block_factor: float
    network: nn.Module
    """Before any recovery, with the old statistics of batch normalization."""
    architecture: Architecture
    trial: Trial
    trials: tuple[Trial, ...]
    """All trials; `trial` is the best of them."""


@dataclass(frozen=True, kw_only=True)
class Proposals:
    each: tuple[Proposal, ...]
    """Distinct, at least one."""
    clock: Clock
    losses: Losses
    full: dict[str, int]
    """Width of every group of the unpruned network."""
    unpruned_us: float
    """By the table."""


def propose(
    network: nn.Module,
    architecture: Architecture,
    images: Sequence[Tensor],
    *,
    pace: Pace,
    deadline: Deadline,
    time: Time | None,
    seed: int,
    progress: Progress,
) -> Proposals:
    """Return one cut of `network` for each of `BLOCK_FACTORS`, without duplicates.

    `images`: batches float32 [B, 3, H, W] for measuring importance. `time` confirms the table's prediction.
    Raises `CompressionError` if the table is for another network or the time cannot be reached.
    """
    groups = channel_groups(network, architecture.input_shape)
    full = {group.root: group.width for group in groups}
    pace.check(full)
    count = sum(len(batch) for batch in images)
    with progress.task("importance of channels", count) as advance:
        scores = channel_importance(network, groups, images, seed=seed, advance=advance)
    with progress.task("importance of blocks", count) as advance:
        blocks = block_importance(network, removable_blocks(architecture), images, advance=advance)
    losses = losses_of(groups, scores, blocks, pace.table.grid, images=count)
    layers = sites(network, groups)
    clock = Clock(pace.table, pace.precision, layers, losses)
    unpruned = clock.latency_us(Subnetwork(widths=full))
    found: dict[Identity, Proposal] = {}
    time = time and _each_once(time)
    factors = BLOCK_FACTORS if blocks else BLOCK_FACTORS[:1]
    with reporting(progress, "choose cuts") as report:
        for number, factor in enumerate(factors, start=1):
            weighed = replace(losses, blocks={block: factor * loss for block, loss in losses.blocks.items()})
            weighed_clock = Clock(pace.table, pace.precision, layers, weighed)
            with portion(report, 1 / len(factors), f"cut {number} of {len(factors)}") as part:
                trial, trials = choose(weighed_clock, deadline, unpruned, time, part)
            chosen = trial.chosen
            if _identity(chosen) in found:
                continue
            left, shallow = cut(network, architecture, groups, scores, chosen)
            found[_identity(chosen)] = Proposal(
                block_factor=factor, network=left, architecture=shallow, trial=trial, trials=trials
            )
    return Proposals(each=tuple(found.values()), clock=clock, losses=losses, full=full, unpruned_us=unpruned)


def cut(
    network: nn.Module, architecture: Architecture, groups: Sequence[Group], scores: Scores, chosen: Subnetwork
) -> tuple[nn.Module, Architecture]:
    """Return `network` with the most important channels of each group and without the removed blocks."""
    removal = {group.root: least_important(group, scores[group.root], chosen.widths[group.root]) for group in groups}
    narrow = remove_channels(network, architecture.input_shape, removal)
    return remove_blocks(narrow, architecture, chosen.removed)


def _each_once(time: Time) -> Time:
    """Return `time` with a cache: several factors often start with the same choice."""
    known: dict[Identity, Timing] = {}

    def timed(chosen: Subnetwork, report: Report) -> Timing:
        identity = _identity(chosen)
        if identity not in known:
            known[identity] = time(chosen, report)
        return known[identity]

    return timed


def _identity(chosen: Subnetwork) -> Identity:
    """Return what distinguishes two cuts; widths inside a removed block do not."""
    widths = (
        0 if any(root.startswith(f"{block}.") for block in chosen.removed) else width
        for root, width in sorted(chosen.widths.items())
    )
    return chosen.removed, tuple(widths)
