"""What a narrower network would cost is what it does cost."""

from collections.abc import Callable
from typing import get_args

import pytest
from tiny_networks import (
    FAMILY,
    OPTION_A,
    SHAPE,
    Concatenated,
    Depthwise,
    Gated,
    Unknown,
    network_of,
    own,
    random_removal,
    widths_after,
)
from torch import nn

from pipeline.artifacts import Architecture
from pipeline.models.cost import Budget, Meter, cost_of
from pipeline.models.surgery import channel_groups, remove_channels

Shape = tuple[int, int, int]


def real_cost(network: nn.Module, shape: Shape, budget: Budget) -> int:
    cost = cost_of(network, shape)
    return cost.macs if budget == "macs" else cost.parameters


def check_against_real_networks(network: nn.Module, shape: Shape, removals: int) -> None:
    groups = channel_groups(network, shape)
    meters = {budget: Meter(network, groups, shape, budget) for budget in get_args(Budget)}
    for budget, meter in meters.items():
        assert meter.cost(meter.full) == pytest.approx(real_cost(network, shape, budget), rel=1e-9)
    for seed in range(removals):
        removal = random_removal(groups, seed)
        pruned = remove_channels(network, shape, removal)
        widths = widths_after(groups, removal)
        for budget, meter in meters.items():
            assert meter.cost(widths) == pytest.approx(real_cost(pruned, shape, budget), rel=1e-9), (budget, seed)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", FAMILY)
def test_it_says_what_pruned_networks_cost(architecture: Architecture) -> None:
    check_against_real_networks(network_of(architecture), architecture.input_shape, removals=12)


@pytest.mark.parametrize("make", [Concatenated, Depthwise, Gated, Unknown])
def test_it_says_what_networks_of_the_users_own_cost(make: Callable[[], nn.Module]) -> None:
    check_against_real_networks(own(make), SHAPE, removals=12)


@pytest.mark.parametrize("budget", get_args(Budget))
def test_a_saving_is_the_difference_of_two_costs(budget: Budget) -> None:
    network = network_of(OPTION_A)
    groups = channel_groups(network, OPTION_A.input_shape)
    meter = Meter(network, groups, OPTION_A.input_shape, budget)
    widths = widths_after(groups, random_removal(groups, seed=5))
    for root, width in widths.items():
        for narrower in range(1, width):
            saved = meter.cost(widths) - meter.cost({**widths, root: narrower})
            assert meter.saving(widths, root, narrower) == pytest.approx(saved, rel=1e-9)
            assert saved > 0


def test_constant_shortcuts_cost_nothing() -> None:
    """One block, by hand: 16 x 16 images, 8 channels, then 12 at half the size behind an option-A shortcut."""
    network = network_of(OPTION_A)
    groups = channel_groups(network, OPTION_A.input_shape)
    meter = Meter(network, groups, OPTION_A.input_shape, "macs")
    saved = meter.saving(dict(meter.full), "conv1", 7)
    stem, first, second, into_next = 256 * 27, 256 * 72, 256 * 72, 64 * 9 * 12
    assert saved == pytest.approx(stem + first + second + into_next)
