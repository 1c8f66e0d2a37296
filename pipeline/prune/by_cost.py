"""Choose channels to remove so that a network costs a given share: the least important ones per cost saved.

Int8 kernels are fast for widths that are multiples of 16 and slow for multiples of 8. A channel of a residual stream
affects every block, while channels inside a block are less important. So a budget is met with the first of three
methods that reaches it:

1. inside blocks, in steps of half the target's channel multiple, leaving at least that multiple: 24 channels are
   slower per channel than 16 or 32, but the finer choice loses less accuracy for the same time (groups of eight
   multiples or more are cut in whole multiples, where it makes no difference);
2. also residual streams, in the same steps;
3. everything in steps of four channels, leaving at least four: slower per channel, but the only method for
   networks as narrow as the multiple, and for small shares.

Each method is greedy: take repeatedly the step that loses least importance per cost saved, then undo
every step that is not needed. This is the usual heuristic for a knapsack with a concave gain.
"""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from pipeline.errors import CompressionError
from pipeline.models.cost import Budget, Meter, Widths
from pipeline.models.surgery import Group, Removal

FINE_STEP = 4
WIDE = 8
"""In channel multiples; wider groups are cut in whole multiples."""
Ladder = dict[str, list[int]]
"""Widths a group may take, descending from the full one, by the group's root."""


def allocate(
    network: nn.Module,
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    *,
    input_shape: tuple[int, int, int],
    budget: Budget,
    share: float,
    channel_multiple: int,
) -> Removal:
    """Return the channels to remove so that at most `share` of the network's `budget` remains.

    `scores`: importance of every channel, float32 [width], by the group's root. Raises `CompressionError` if the
    share cannot be reached.
    """
    meter = Meter(network, groups, input_shape, budget)
    target = share * meter.cost(meter.full)
    reachable = 1.0
    for ladder in _ways(groups, channel_multiple):
        narrowest = {root: steps[-1] for root, steps in ladder.items()}
        reachable = min(reachable, meter.cost(narrowest) / meter.cost(meter.full))
        if reachable <= share:
            widths = _narrow(meter, ladder, cumulative_losses(groups, scores), target)
            return {
                group.root: least_important(group, scores[group.root], widths[group.root])
                for group in groups
                if widths[group.root] < group.width
            }
    raise CompressionError(
        f"{budget} = {share:g} cannot be reached: with the fewest channels in every prunable layer, "
        f"{reachable:.3f} of the network's {budget} would remain. Set a larger share, or train a smaller network."
    )


def _ways(groups: Sequence[Group], channel_multiple: int) -> list[Ladder]:
    half = max(1, channel_multiple // 2)
    coarse = {group.root: _widths(group, _step(group, half), least=channel_multiple) for group in groups}
    fine = {group.root: _widths(group, min(FINE_STEP, channel_multiple), least=1) for group in groups}
    inside = {group.root: [group.width] if group.is_stream else coarse[group.root] for group in groups}
    return [inside, coarse, fine]


def _step(group: Group, half: int) -> int:
    """Return half the multiple, or all of it if it is a small share of the width, where nothing is lost by it."""
    return 2 * half if group.width >= WIDE * 2 * half else half


def _widths(group: Group, step: int, *, least: int) -> list[int]:
    step = math.lcm(step, group.parts)
    narrower = range(group.width // step * step, max(least, step) - 1, -step)
    return [group.width, *(width for width in narrower if width < group.width)]


def cumulative_losses(groups: Sequence[Group], scores: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Return the importance lost with the n least important positions, n = 0, 1, …; a position is one per part."""
    return {
        group.root: [0.0, *_by_position(group, scores[group.root]).sort().values.cumsum(0).tolist()]
        for group in groups
    }


def _narrow(meter: Meter, ladder: Ladder, losses: Mapping[str, list[float]], target: float) -> Widths:
    widths = dict(meter.full)
    taken: list[tuple[str, int, int]] = []
    cost = meter.cost(widths)
    while cost > target:
        root, width = _cheapest_step(meter, ladder, losses, widths)
        taken.append((root, widths[root], width))
        widths[root] = width
        cost = meter.cost(widths)
    for root, before, after in reversed(taken):
        if widths[root] == after and meter.cost({**widths, root: before}) <= target:
            widths[root] = before
    return widths


def _cheapest_step(meter: Meter, ladder: Ladder, losses: Mapping[str, list[float]], widths: Widths) -> tuple[str, int]:
    """Return the group and width of the next step that loses least importance per cost saved."""
    rates: list[tuple[float, str, int]] = []
    for root, steps in ladder.items():
        position = steps.index(widths[root]) + 1
        if position == len(steps):
            continue
        full, loss = meter.full[root], losses[root]
        per_part = full // (len(loss) - 1)
        lost = loss[(full - steps[position]) // per_part] - loss[(full - widths[root]) // per_part]
        saved = meter.saving(widths, root, steps[position])
        if saved > 0:
            rates.append((lost / saved, root, steps[position]))
    # There is one: this method was chosen because its last steps reach the target.
    _, root, width = min(rates)
    return root, width


def least_important(group: Group, score: Tensor, width: int) -> tuple[int, ...]:
    """Return the least important channels, all but `width`, the same positions in each part."""
    count = (group.width - width) // group.parts
    positions = _by_position(group, score).argsort(stable=True)[:count].tolist()
    per_part = group.width // group.parts
    return tuple(sorted(part * per_part + position for part in range(group.parts) for position in positions))


def _by_position(group: Group, score: Tensor) -> Tensor:
    return score.view(group.parts, group.width // group.parts).sum(dim=0)
