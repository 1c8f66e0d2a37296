"""Prune: remove the channels and blocks of least importance per cost, then recover by distillation.

The cost is counted (`pipeline.prune.by_cost`) or read from a latency table (`pipeline.prune.by_latency`).
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from pipeline.artifacts import Architecture, Checkpoint
from pipeline.data.batches import Batches
from pipeline.errors import CompressionError
from pipeline.latency.table import Pace
from pipeline.models.checkpoint import build_network, save_network
from pipeline.models.cost import Budget
from pipeline.models.surgery import channel_groups, remove_channels
from pipeline.progress import Advance
from pipeline.prune.by_cost import allocate
from pipeline.prune.candidates import Proposal, Proposals, propose
from pipeline.prune.importance import channel_importance
from pipeline.prune.recovery import estimate_statistics, recalibrate_batchnorm, recover, sample
from pipeline.prune.report import sensitivity, write_report
from pipeline.prune.settings import PruneSettings
from pipeline.prune.tournament import Contest, run_contest
from pipeline.prune.trials import Deadline, Time, times_text
from pipeline.training.evaluation import top1_of
from pipeline.training.loop import seed_everything
from pipeline.workplace import Data, Workplace
from pipeline.workspace.hashing import Json

IMPORTANCE_IMAGES = 512


def prune(
    checkpoint: Checkpoint,
    data: Data,
    settings: PruneSettings,
    at: Workplace,
    *,
    pace: Pace | None = None,
    time: Time | None = None,
) -> None:
    """Write the pruned and recovered network; with nothing to prune, the original files.

    `pace` is the table for `latency` and `speedup`, and `time` measures networks to confirm it, if available.
    Raises `CompressionError` if the network's channels cannot be traced or the budget cannot be reached.
    """
    folder, progress = at.folder, at.progress
    if not settings.prunes:
        shutil.copytree(checkpoint.folder, folder, dirs_exist_ok=True, ignore=_all_but_the_network)
        return
    training, preprocessing = data.dataset.training, data.preprocessing
    seed_everything(settings.seed)
    network = build_network(checkpoint)
    recalibrate_batchnorm(network, training, preprocessing, progress=progress)
    selection = Batches(data.dataset.selection, preprocessing)
    if pace is not None:
        kept = _cut_by_clock(network, checkpoint, data, settings, at, pace, time)
    else:
        with progress.task("importance of channels", min(IMPORTANCE_IMAGES, len(training))) as advance:
            seen = sample(training, preprocessing, IMPORTANCE_IMAGES)
            kept = _cut(network, checkpoint, seen, settings, advance=advance, folder=folder)
    architecture = Checkpoint(folder=folder).architecture
    # From here on use the network that later stages rebuild from the stored widths and weights.
    pruned = build_network(Checkpoint(folder=folder))
    estimate_statistics(pruned, training, preprocessing, progress=progress)
    progress.line(
        f"prune: {kept}; selection {top1_of(network, selection, progress=progress):.1%} before, "
        f"{top1_of(pruned, selection, progress=progress):.1%} after, not yet recovered"
    )
    if settings.epochs > 0:
        recover(pruned, network, data, epochs=settings.epochs, seed=settings.seed, at=at)
    save_network(pruned, architecture, folder)


def _cut(
    network: nn.Module,
    checkpoint: Checkpoint,
    seen: Iterable[Tensor],
    settings: PruneSettings,
    *,
    advance: Advance,
    folder: Path,
) -> str:
    """Write the network without its least important channels to `folder`; return a summary.

    `seen`: batches float32 [B, 3, H, W] for measuring importance.
    """
    budget: Budget = "macs" if settings.macs < 1 else "params"
    share = min(settings.macs, settings.params)
    input_shape = checkpoint.architecture.input_shape
    groups = channel_groups(network, input_shape)
    scores = channel_importance(network, groups, seen, seed=settings.seed, advance=advance)
    removal = allocate(
        network,
        groups,
        scores,
        input_shape=input_shape,
        budget=budget,
        share=share,
        channel_multiple=settings.channel_multiple,
    )
    save_network(remove_channels(network, input_shape, removal), checkpoint.architecture, folder)
    _check_budget(checkpoint, Checkpoint(folder=folder), budget, share)
    return f"{share:g} of the {budget} kept"


def _cut_by_clock(
    network: nn.Module,
    checkpoint: Checkpoint,
    data: Data,
    settings: PruneSettings,
    at: Workplace,
    pace: Pace,
    time: Time | None,
) -> str:
    """Write the network that recovers best within the time to `folder`; return a summary of its cuts."""
    architecture = checkpoint.architecture
    deadline, progress = Deadline.of(settings), at.progress
    seen = list(sample(data.dataset.training, data.preprocessing, IMPORTANCE_IMAGES))
    proposals = propose(
        network, architecture, seen, pace=pace, deadline=deadline, time=time, seed=settings.seed, progress=progress
    )
    for number, proposal in enumerate(proposals.each, start=1):
        text = times_text(proposal.trial, proposals.unpruned_us, proposal.trials, pace.elsewhere)
        progress.detail(f"cut {number} of {len(proposals.each)}: {text}{_removed_blocks_text(proposal, architecture)}")
    contest = run_contest(
        [proposal.network for proposal in proposals.each],
        network,
        data,
        epochs=settings.epochs,
        seed=settings.seed,
        at=at,
    )
    chosen = proposals.each[contest.winner]
    save_network(chosen.network, chosen.architecture, at.folder)
    write_report(
        at.folder,
        sensitivity(proposals.clock, proposals.losses, proposals.full, chosen.trial.chosen),
        pace=pace,
        unpruned_us=proposals.unpruned_us,
        deadline=deadline,
        trial=chosen.trial,
        trials=chosen.trials,
        contest=_facts(proposals, contest),
    )
    text = times_text(chosen.trial, proposals.unpruned_us, chosen.trials, pace.elsewhere)
    return f"{text}{_removed_blocks_text(chosen, architecture)}{_winner_text(contest)}"


def _removed_blocks_text(proposal: Proposal, before: Architecture) -> str:
    gone, depth = len(proposal.trial.chosen.removed), sum(before.depths)
    return f", {gone} of {depth} blocks removed" if gone else ""


def _facts(proposals: Proposals, contest: Contest) -> list[Json]:
    divergences = contest.divergences or (None,)
    return [
        {
            "block_factor": proposal.block_factor,
            "removed_blocks": list[Json](sorted(proposal.trial.chosen.removed)),
            "widths": dict(proposal.trial.chosen.widths),
            "divergence": value,
            "images": contest.images,
        }
        for proposal, value in zip(proposals.each, divergences, strict=True)
    ]


def _winner_text(contest: Contest) -> str:
    if not contest.divergences:
        return ""
    figures = ", ".join(f"{value:.3g}" for value in contest.divergences)
    after = f"after {contest.images} images" if contest.images else "untrained"
    return (
        f"; cut {contest.winner + 1} of {len(contest.divergences)} is closest to the float network ({figures} {after})"
    )


def _check_budget(before: Checkpoint, after: Checkpoint, budget: Budget, share: float) -> None:
    left, full = (
        (after.cost.macs, before.cost.macs) if budget == "macs" else (after.cost.parameters, before.cost.parameters)
    )
    if left > share * full:
        raise CompressionError(
            f"{budget} = {share:g} was requested, but {left / full:.4f} is left after pruning. This is a bug in Edge "
            "Deploy; please report it."
        )


def _all_but_the_network(folder: str, names: list[str]) -> set[str]:
    del folder
    return set(names) - {"weights.safetensors", "architecture.json", "cost.json"}
