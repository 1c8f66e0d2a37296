"""Widths and blocks for a time, from a table given as data, against all subnetworks there are."""

import functools
import itertools
import random
from collections.abc import Iterator, Sequence

import pytest
import torch
from tiny_networks import network_of
from tiny_table import table_of

from pipeline.errors import CompressionError
from pipeline.latency.subnetwork import Site, Subnetwork, sites
from pipeline.latency.table import LatencyTable, Times
from pipeline.models.surgery import Group, channel_groups
from pipeline.models.zoo import residual
from pipeline.prune import knapsack
from pipeline.prune.by_latency import Clock, Losses
from pipeline.prune.knapsack import Front
from pipeline.prune.report import losses_of

STREAM, INSIDE = "stem", ("a.0.conv1", "a.1.conv1", "a.2.conv1")
GRID = {STREAM: (8, 16), INSIDE[0]: (8, 16, 24), INSIDE[1]: (8, 16, 24), INSIDE[2]: (8, 24)}
FULL = {root: widths[-1] for root, widths in GRID.items()}
BLOCKS = ("a.1", "a.2")


def site(readers: tuple[str, ...], writers: tuple[str, ...], inputs: int = 3, outputs: int = 10) -> Site:
    return Site(
        inputs=FULL[readers[0]] if readers else inputs,
        outputs=FULL[writers[0]] if writers else outputs,
        groups=1,
        is_depthwise=False,
        readers=tuple((root, 1.0) for root in readers),
        writers=tuple((root, 1.0) for root in writers),
    )


def layers() -> dict[str, Site]:
    found = {"stem": site((), (STREAM,))}
    for root in INSIDE:
        found[root] = site((STREAM,), (root,))
        found[root.replace("conv1", "conv2")] = site((root,), (STREAM,))
    found["fc"] = site((STREAM,), ())
    return found


def drawn(seed: int) -> tuple[LatencyTable, Losses]:
    """Times that need not rise with the widths, as real ones."""
    rng = random.Random(seed)
    shapes = {}
    for name, each in layers().items():
        ins = GRID[each.readers[0][0]] if each.readers else (each.inputs,)
        outs = GRID[each.writers[0][0]] if each.writers else (each.outputs,)
        shapes[name] = {
            (i, o): (rng.uniform(0.5, 1.5) * (i * o / 30 + 4), 2.0) for i, o in itertools.product(ins, outs)
        }
    table = LatencyTable(
        architecture="drawn",
        target="cpu",
        machine={},
        runtime="none",
        threads=1,
        full=FULL,
        grid=GRID,
        layers={name: name for name in layers()},
        precisions={"int8": Times(shapes=shapes, rest=(3.0, 1.0), scale=0.8, per_node=0.5, checks=())},
    )
    losses = {}
    for root, widths in GRID.items():
        falling = sorted((rng.uniform(0, 4) for _ in widths[:-1]), reverse=True)
        losses[root] = dict(zip(widths, [*falling, 0.0], strict=True))
    return table, Losses(widths=losses, blocks={block: rng.uniform(1, 6) for block in BLOCKS})


def everything() -> Iterator[Subnetwork]:
    for widths in itertools.product(*GRID.values()):
        for count in range(len(BLOCKS) + 1):
            for removed in itertools.combinations(BLOCKS, count):
                yield Subnetwork(widths=dict(zip(GRID, widths, strict=True)), removed=frozenset(removed))


def clock_of(seed: int) -> Clock:
    table, losses = drawn(seed)
    return Clock(table, "int8", layers(), losses)


@pytest.mark.parametrize("seed", range(12))
def test_no_subnetwork_within_the_time_loses_less(seed: int) -> None:
    clock = clock_of(seed)
    full = clock.latency_us(Subnetwork(widths=FULL))
    rows = [(clock.latency_us(each), clock.loss(each)) for each in everything()]
    for share in (0.95, 0.8, 0.6, 0.5):
        within = [loss for time, loss in rows if time <= share * full]
        if not within:
            with pytest.raises(CompressionError, match="cannot be reached"):
                clock.fit(share * full)
            continue
        found = clock.fit(share * full)
        assert clock.latency_us(found) <= share * full * (1 + 1e-9)
        assert clock.loss(found) == pytest.approx(min(within))


@pytest.mark.parametrize("seed", range(6))
def test_the_fastest_is_the_fastest_of_all_and_named_where_no_time_is_enough(seed: int) -> None:
    clock = clock_of(seed)
    least = min(clock.latency_us(each) for each in everything())
    assert clock.latency_us(clock.fastest) == pytest.approx(least)
    assert clock.latency_us(clock.fit(least * 1.0000001)) == pytest.approx(least)
    with pytest.raises(
        CompressionError, match=rf"0\.0\d+ ms cannot be reached: the fastest .* takes {least / 1e3:.4g}"
    ):
        clock.fit(0.9 * least)


def test_with_time_enough_nothing_goes() -> None:
    clock = clock_of(0)
    full = Subnetwork(widths=FULL)
    assert clock.fit(1.01 * max(clock.latency_us(each) for each in everything())) == full
    assert clock.loss(full) == 0


def test_widths_that_the_table_says_are_slower_are_not_taken() -> None:
    """A table in which 8 channels take longer than 16: no budget makes anything 8 wide."""
    table, losses = drawn(3)
    shapes = {
        shape: {(i, o): (100.0 if 8 in (i, o) else 10.0 + i + o, nodes) for (i, o), (_, nodes) in cells.items()}
        for shape, cells in table.precisions["int8"].shapes.items()
    }
    times = Times(shapes=shapes, rest=(3.0, 1.0), scale=1.0, per_node=0.0, checks=())
    slow = LatencyTable(**{**table.__dict__, "precisions": {"int8": times}})
    clock = Clock(slow, "int8", layers(), losses)
    full = clock.latency_us(Subnetwork(widths=FULL))
    least = clock.latency_us(clock.fastest)
    for share in (0.9, 0.5, 0.1, 0.0):
        found = clock.fit(least + share * (full - least))
        kept = {root for root in INSIDE if root.removesuffix(".conv1") not in found.removed}
        assert all(found.widths[root] != 8 for root in (*kept, STREAM))


def test_streams_that_are_too_many_to_try_descend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.prune.by_latency.MAX_TRIED", 1)
    for seed in range(6):
        clock = clock_of(seed)
        budget = 0.75 * clock.latency_us(Subnetwork(widths=FULL))
        found = clock.fit(budget)
        assert clock.latency_us(found) <= budget * (1 + 1e-9)
        within = [clock.loss(each) for each in everything() if clock.latency_us(each) <= budget]
        assert clock.loss(found) == pytest.approx(min(within))  # one stream: a descent cannot miss


DEEP = residual(depths=(2, 2, 2), stage_widths=(64, 128, 256), classes=("a", "b"), input_size=(16, 16))
COMBINATIONS = 8**3
"""Of the widths of the three stages' streams."""


@functools.cache
def deep() -> tuple[tuple[Group, ...], dict[str, Site], LatencyTable]:
    network = network_of(DEEP)
    groups = channel_groups(network, DEEP.input_shape)
    return groups, sites(network, groups), table_of(network, DEEP.input_shape, multiple=16, per_layer=5.0)


def deep_clock(seed: int, *, scale: float) -> tuple[Clock, Subnetwork]:
    """One to which the three streams count `scale` times as much as the rest; and the full network."""
    groups, layers, table = deep()
    generator = torch.Generator().manual_seed(seed)
    scores = {group.root: torch.rand(group.width, generator=generator) for group in groups}
    streams = {root for root in scores if root == "conv1" or "downsample" in root}
    assert len(streams) == 3
    weighed = {root: score * (scale if root in streams else 1.0) for root, score in scores.items()}
    blocks = {f"layer{stage}.1": float(torch.rand(1, generator=generator) * 20) for stage in (1, 2, 3)}
    losses = losses_of(groups, weighed, blocks, table.grid, images=1)
    return Clock(table, "int8", layers, losses), Subnetwork(widths=table.full)


@pytest.mark.parametrize("scale", [0.03, 0.3, 3.0])
def test_of_all_widths_of_the_streams_few_are_solved(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[float] = []

    def counted(items: Sequence[Front], budget: float) -> list[int] | None:
        solved.append(budget)
        return knapsack.solve(items, budget)

    monkeypatch.setattr("pipeline.prune.by_latency.solve", counted)
    for seed in range(4):
        clock, full = deep_clock(seed, scale=scale)
        for speedup in (1.2, 1.5, 2.0):
            solved.clear()
            found = clock.fit(clock.latency_us(full) / speedup)
            assert clock.latency_us(found) <= clock.latency_us(full) / speedup * (1 + 1e-9)
            assert 1 < len(solved) <= COMBINATIONS / 16


@pytest.mark.parametrize("scale", [0.03, 0.3, 3.0])
def test_trying_all_widths_of_the_streams_loses_no_more_than_a_descent(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(4):
        clock, full = deep_clock(seed, scale=scale)
        budget = clock.latency_us(full) / 1.5
        best = clock.fit(budget)
        with monkeypatch.context() as patched:
            patched.setattr("pipeline.prune.by_latency.MAX_TRIED", 1)
            descended = clock.fit(budget)
        assert clock.latency_us(descended) <= budget * (1 + 1e-9)
        assert clock.loss(best) <= clock.loss(descended) + 1e-9


def test_of_two_streams_no_widths_within_the_time_lose_less() -> None:
    """Against every subnetwork there is: two stages, whose streams are tied to each other by one block."""
    small = residual(depths=(1, 2), stage_widths=(16, 24), classes=("a", "b"), input_size=(8, 8))
    network = network_of(small)
    groups = channel_groups(network, small.input_shape)
    table = table_of(network, small.input_shape, multiple=16, per_layer=1.0)
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        scores = {group.root: torch.rand(group.width, generator=generator) for group in groups}
        losses = losses_of(groups, scores, {"layer2.1": 4.0 * seed}, table.grid, images=1)
        clock = Clock(table, "int8", sites(network, groups), losses)
        every = [
            Subnetwork(widths=dict(zip(table.grid, widths, strict=True)), removed=frozenset(removed))
            for widths in itertools.product(*table.grid.values())
            for removed in ((), ("layer2.1",))
        ]
        assert len(every) > 100
        rows = [(clock.latency_us(each), clock.loss(each)) for each in every]
        for speedup in (1.1, 1.3, 1.6, 2.0):
            budget = clock.latency_us(Subnetwork(widths=table.full)) / speedup
            least = min((loss for time, loss in rows if time <= budget), default=None)
            if least is not None:
                assert clock.loss(clock.fit(budget)) == pytest.approx(least)


def test_the_fastest_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = clock_of(0)
    fastest, full = clock.fastest, clock.latency_us(Subnetwork(widths=FULL))
    monkeypatch.setattr(Times, "layer_us", None)  # whatever is asked of the table was asked before
    assert clock.fastest is fastest
    assert clock.latency_us(clock.fit(0.8 * full)) <= 0.8 * full * (1 + 1e-9)
