"""Choose the cut that recovers best: each is trained briefly, and the one closest to the float network is kept.

As in NetAdapt (Yang et al. 2018, https://arxiv.org/abs/1804.03230), but judged by the divergence from the float
network's answers. It separates cuts that top-1 on few images does not, also on images whose labels the network has
memorized.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from pipeline.data.batches import Batches
from pipeline.data.sampling import spread
from pipeline.prune.recovery import estimate_statistics, recover
from pipeline.training.evaluation import divergence, logits_of
from pipeline.training.loop import seed_everything
from pipeline.workplace import Data, Workplace
from pipeline.workspace.training_state import Continuation

SHARE = 0.1
"""Share of the recovery's images, for all contestants together."""
MAX_IMAGES = 20_000
"""Per contestant: by then the ranking is stable."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    winner: int
    divergences: tuple[float, ...]
    """From the teacher's answers on the selection split, in nats, in the order of the contestants."""
    images: int
    """Images each was trained on, once; 0: judged without training."""


def run_contest(
    contestants: Sequence[nn.Module],
    teacher: nn.Module,
    data: Data,
    *,
    epochs: int,
    seed: int,
    at: Workplace,
) -> Contest:
    """Train a copy of each contestant; `epochs` are those of the recovery that follows.

    Each is saved after its training beside the continuation, so that an interrupted contest can resume.
    """
    if len(contestants) == 1:
        return Contest(winner=0, divergences=(), images=0)
    dataset, preprocessing, progress = data.dataset, data.preprocessing, at.progress
    share = round(SHARE * epochs * len(dataset.training) / len(contestants))
    count = min(share, MAX_IMAGES, len(dataset.training))
    images = dataset.training.subset(spread(len(dataset.training), count))
    few = replace(data, dataset=replace(dataset, training=images))
    selection = Batches(dataset.selection, preprocessing)
    wanted = logits_of(teacher, selection, progress=progress, name="float answers")
    divergences = []
    for number, contestant in enumerate(contestants, start=1):
        network = copy.deepcopy(contestant)
        estimate_statistics(network, dataset.training, preprocessing, progress=progress)
        if count > 0:
            seed_everything(seed)
            recover(
                network,
                teacher,
                few,
                epochs=1,
                seed=seed,
                at=replace(at, continuation=_beside(at.continuation, number)),
                name=f"cut {number} of {len(contestants)}",
            )
            # Running averages lag behind the weights after such a short training.
            estimate_statistics(network, dataset.training, preprocessing, progress=progress)
        found = logits_of(network, selection, progress=progress, name=f"answers of cut {number}")
        divergences.append(divergence(found, wanted))
    return Contest(winner=divergences.index(min(divergences)), divergences=tuple(divergences), images=count)


def _beside(continuation: Continuation | None, number: int) -> Continuation | None:
    if continuation is None:
        return None
    return replace(continuation, file=continuation.file.with_name(f"{continuation.file.name}-{number}"))
