"""Each layer shape meets each pair of its widths."""

import random

import pytest
from tiny_networks import GROUPED, network_of

from pipeline.artifacts import Architecture, Checkpoint
from pipeline.latency.profile import subject_of
from pipeline.latency.sampling_plan import Subject, plan_subnetworks, random_subnetwork, widths_of
from pipeline.models.checkpoint import save_network
from pipeline.models.surgery import Group
from pipeline.models.zoo import residual

pytestmark = pytest.mark.slow

BASIC = residual(depths=(1, 2, 2), stage_widths=(8, 16, 24), classes=("a", "b", "c"), input_size=(16, 16))


@pytest.fixture(scope="module", params=[BASIC, GROUPED], ids=["basic", "grouped"])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    architecture: Architecture = request.param
    folder = tmp_path_factory.mktemp("network")
    save_network(network_of(architecture), architecture, folder)
    return subject_of(Checkpoint(folder=folder), multiple=8, weight_bits=8)


def test_every_pair_of_widths_of_every_layer_occurs(subject: Subject) -> None:
    plan = plan_subnetworks(subject, random.Random(0))
    assert plan[0].widths == subject.full
    met = {cell for each in plan for _, cell in subject.cells(each)}
    for name, site in subject.layers.items():
        ins = subject.grid[site.readers[0][0]] if site.readers else (site.inputs,)
        outs = subject.grid[site.writers[0][0]] if site.writers else (site.outputs,)
        if site.roots and dict(site.readers).keys() == dict(site.writers).keys():
            pairs = {(width, width) for width in ins}  # a grouped convolution within one group
        else:
            pairs = {(i, o) for i in ins for o in outs}
        assert {(subject.shapes[name], *pair) for pair in pairs} <= met
    most = max(len(grid) for grid in subject.grid.values())
    assert len(plan) <= 3 * most**2


def test_the_plan_is_the_same_each_time(subject: Subject) -> None:
    assert plan_subnetworks(subject, random.Random(0)) == plan_subnetworks(subject, random.Random(0))


def test_what_is_drawn_is_what_pruning_could_leave(subject: Subject) -> None:
    rng = random.Random(5)
    for each in (random_subnetwork(subject, rng) for _ in range(20)):
        assert each.removed <= set(subject.removable)
        assert all(
            each.widths[root] in grid and each.widths[root] >= grid[-1] / 2 for root, grid in subject.grid.items()
        )


@pytest.mark.parametrize(
    ("width", "parts", "multiple", "expected"),
    [
        pytest.param(16, 1, 16, (8, 16), id="as-narrow-as-the-multiple"),
        pytest.param(64, 1, 16, (8, 16, 24, 32, 40, 48, 56, 64), id="eight"),
        pytest.param(256, 1, 16, (32, 64, 96, 128, 160, 192, 224, 256), id="coarser-where-wide"),
        pytest.param(20, 1, 16, (8, 16, 20), id="full-width-off-the-grid"),
        pytest.param(6, 1, 16, (6,), id="narrower-than-a-step"),
        pytest.param(48, 12, 16, (24, 48), id="parts"),
    ],
)
def test_the_grid(width: int, parts: int, multiple: int, expected: tuple[int, ...]) -> None:
    group = Group(root="layer", width=width, parts=parts, members=(), is_stream=False)
    assert widths_of(group, multiple) == expected
