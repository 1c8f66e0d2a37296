"""Which channels go: within the budget, the least important ones, gently where that suffices."""

from dataclasses import dataclass

import pytest
import torch
from tiny_networks import CLASSES, FAMILY, GROUPED, deep, network_of, widths_after
from torch import Tensor, nn

from pipeline.artifacts import Architecture
from pipeline.errors import CompressionError
from pipeline.models.cost import Budget, Meter, cost_of
from pipeline.models.surgery import Group, Removal, channel_groups, remove_channels
from pipeline.models.zoo import residual
from pipeline.prune.by_cost import FINE_STEP, allocate

ROOMY = residual(depths=(1, 1, 1), stage_widths=(16, 32, 64), classes=CLASSES, input_size=(16, 16))
"""Wide enough for steps of eight channels."""


@dataclass(frozen=True, kw_only=True)
class Case:
    network: nn.Module
    architecture: Architecture
    groups: tuple[Group, ...]
    scores: dict[str, Tensor]

    def allocate(self, share: float, *, budget: Budget = "macs", channel_multiple: int = 8) -> Removal:
        return allocate(
            self.network,
            self.groups,
            self.scores,
            input_shape=self.architecture.input_shape,
            budget=budget,
            share=share,
            channel_multiple=channel_multiple,
        )

    def meter(self, budget: Budget = "macs") -> Meter:
        return Meter(self.network, self.groups, self.architecture.input_shape, budget)

    def left(self, removal: Removal, budget: Budget = "macs") -> float:
        """The share that really is left."""
        shape = self.architecture.input_shape
        full, pruned = cost_of(self.network, shape), cost_of(remove_channels(self.network, shape, removal), shape)
        return pruned.macs / full.macs if budget == "macs" else pruned.parameters / full.parameters


def case_of(architecture: Architecture) -> Case:
    network = network_of(architecture)
    groups = channel_groups(network, architecture.input_shape)
    generator = torch.Generator().manual_seed(11)
    scores = {group.root: torch.rand(group.width, generator=generator) for group in groups}
    return Case(network=network, architecture=architecture, groups=groups, scores=scores)


@pytest.fixture(scope="module")
def roomy() -> Case:
    return case_of(ROOMY)


@pytest.mark.parametrize("budget", ["macs", "params"])
@pytest.mark.parametrize("architecture", FAMILY)
def test_the_budget_is_met_and_used(architecture: Architecture, budget: Budget) -> None:
    case = case_of(architecture)
    meter = case.meter(budget)
    for share in (0.9, 0.8, 0.7):
        removal = case.allocate(share, budget=budget)
        assert case.left(removal, budget) <= share
        widths = widths_after(case.groups, removal)
        assert meter.cost(widths) == pytest.approx(case.left(removal, budget) * meter.cost(meter.full))
        for group in case.groups:
            assert widths[group.root] >= min(FINE_STEP, group.width)
            assert all(0 <= channel < group.width for channel in removal.get(group.root, ()))


@pytest.mark.parametrize("budget", ["macs", "params"])
def test_no_step_is_taken_that_is_not_needed(roomy: Case, budget: Budget) -> None:
    meter = roomy.meter(budget)
    for share in (0.9, 0.75, 0.6, 0.5):
        widths = widths_after(roomy.groups, roomy.allocate(share, budget=budget))
        for group in roomy.groups:
            if widths[group.root] < group.width:
                assert meter.cost({**widths, group.root: widths[group.root] + 4}) > share * meter.cost(meter.full)


def test_the_inside_of_blocks_goes_first_in_half_multiples_but_never_below_one(roomy: Case) -> None:
    streams = {group.root for group in roomy.groups if group.is_stream}
    assert streams
    seen = set()
    for share in (0.9, 0.8, 0.7):
        removal = roomy.allocate(share, channel_multiple=16)
        assert not streams & set(removal)
        widths = widths_after(roomy.groups, removal)
        assert all(width % 8 == 0 and width >= 16 for width in widths.values())
        seen |= set(widths.values())
    assert any(width % 16 for width in seen)


def test_streams_are_next_and_fine_steps_are_last(roomy: Case) -> None:
    streams = {group.root for group in roomy.groups if group.is_stream}
    coarse, fine = roomy.allocate(0.2), roomy.allocate(0.06)
    assert streams & set(coarse)
    assert all(width % 4 == 0 and width >= 8 for width in widths_after(roomy.groups, coarse).values())
    widths = widths_after(roomy.groups, fine).values()
    assert all(width % FINE_STEP == 0 for width in widths)
    assert min(widths) == FINE_STEP


def test_networks_as_narrow_as_the_multiple_are_cut_in_fine_steps(roomy: Case) -> None:
    removal = roomy.allocate(0.7, channel_multiple=64)
    assert roomy.left(removal) <= 0.7
    assert all(width % FINE_STEP == 0 for width in widths_after(roomy.groups, removal).values())


def test_an_unreachable_share_names_the_smallest_one_that_is_not(roomy: Case) -> None:
    meter = roomy.meter()
    least = meter.cost({group.root: FINE_STEP for group in roomy.groups}) / meter.cost(meter.full)
    with pytest.raises(CompressionError, match=rf"macs = 0\.001 cannot be reached: .* {least:.3f} of the network's"):
        roomy.allocate(0.001)
    assert roomy.left(roomy.allocate(least + 0.001)) <= least + 0.001


@pytest.mark.parametrize("budget", ["macs", "params"])
@pytest.mark.parametrize("architecture", FAMILY)
def test_exactly_the_smallest_share_is_reached(architecture: Architecture, budget: Budget) -> None:
    """Where rounding could leave no step to take."""
    case = case_of(architecture)
    meter = case.meter(budget)
    steps = {group.root: max(FINE_STEP, group.parts) for group in case.groups}
    least = meter.cost({root: min(step, meter.full[root]) for root, step in steps.items()}) / meter.cost(meter.full)
    assert case.left(case.allocate(least, budget=budget), budget) == pytest.approx(least)


def test_the_least_important_channels_go(roomy: Case) -> None:
    for root, channels in roomy.allocate(0.3).items():
        score = roomy.scores[root]
        kept = [index for index in range(len(score)) if index not in channels]
        assert score[list(channels)].max() <= score[kept].min()


def test_the_group_with_the_less_important_channels_goes() -> None:
    """Two insides of the same shape and cost: what differs is their importance."""
    case = case_of(residual(depths=(2,), stage_widths=(16,), classes=CLASSES, input_size=(16, 16)))
    for spared, cut in (("layer1.0.conv1", "layer1.1.conv1"), ("layer1.1.conv1", "layer1.0.conv1")):
        case.scores[spared], case.scores[cut] = torch.full((16,), 2.0), torch.full((16,), 1.0)
        assert set(case.allocate(0.8)) == {cut}


def test_each_part_of_a_grouped_convolution_loses_the_same_positions() -> None:
    case = case_of(GROUPED)
    removal = case.allocate(0.6, channel_multiple=4)
    grouped = [group for group in case.groups if group.parts > 1 and group.root in removal]
    assert grouped
    for group in grouped:
        per_part = group.width // group.parts
        positions = [
            {channel % per_part for channel in removal[group.root] if channel // per_part == part}
            for part in range(group.parts)
        ]
        assert all(each == positions[0] for each in positions)
        summed = case.scores[group.root].view(group.parts, per_part).sum(dim=0)
        kept = [position for position in range(per_part) if position not in positions[0]]
        assert summed[list(positions[0])].max() <= summed[kept].min()


def test_a_grouped_convolution_is_cut_in_steps_of_its_parts() -> None:
    """Eight parts do not fit into steps of four channels."""
    case = case_of(deep(inner=16, groups=8))
    removal = case.allocate(0.7, channel_multiple=4)
    assert case.left(removal) <= 0.7
    cut = [group for group in case.groups if group.parts == 8 and group.root in removal]
    assert cut
    assert all(len(removal[group.root]) % 8 == 0 for group in cut)


def test_a_network_without_groups_cannot_be_cut() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    with pytest.raises(CompressionError, match=r"params = 0\.9 cannot be reached: .* 1\.000 of the network's params"):
        allocate(network, (), {}, input_shape=(3, 2, 2), budget="params", share=0.9, channel_multiple=8)


def test_wide_groups_are_cut_in_whole_multiples_and_narrow_ones_in_halves() -> None:
    case = case_of(residual(depths=(2, 2), stage_widths=(64, 128), classes=CLASSES, input_size=(16, 16)))
    widths = widths_after(case.groups, case.allocate(0.55, channel_multiple=16))
    assert all(widths[root] % 16 == 0 for root in ("layer2.0.conv1", "layer2.1.conv1"))
    assert all(widths[root] % 8 == 0 for root in ("layer1.0.conv1", "layer1.1.conv1"))
    assert any(widths[root] < 128 for root in ("layer2.0.conv1", "layer2.1.conv1"))
