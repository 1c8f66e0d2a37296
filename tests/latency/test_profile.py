"""A table measured with the real runtime: complete, read again, honest about its error."""

import random
from pathlib import Path

import pytest
from tiny_networks import network_of
from tiny_progress import Counted

from pipeline.artifacts import Checkpoint
from pipeline.errors import TargetError
from pipeline.latency.profile import CHECKED, FITTED, fit_times, profile, subject_of
from pipeline.latency.sampling_plan import Subject, plan_subnetworks, random_subnetwork
from pipeline.latency.subnetwork import Subnetwork
from pipeline.latency.table import FILE, LatencyTable, Times, read_table
from pipeline.models.checkpoint import save_network
from pipeline.models.zoo import residual
from pipeline.progress import Silent
from pipeline.prune.by_latency import Clock, Losses
from targets.runtimes import timing
from targets.runtimes.onnxruntime import layer_times
from targets.target import find_target

pytestmark = pytest.mark.slow

BASIC = residual(depths=(2, 2), stage_widths=(16, 32), classes=("a", "b", "c"), input_size=(16, 16))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("network")
    save_network(network_of(BASIC), BASIC, folder)
    return Checkpoint(folder=folder)


@pytest.fixture(scope="module")
def subject(checkpoint: Checkpoint) -> Subject:
    return subject_of(checkpoint, multiple=16, weight_bits=8)


@pytest.fixture(scope="module")
def progress() -> Counted:
    return Counted()


@pytest.fixture(scope="module")
def table(checkpoint: Checkpoint, progress: Counted, tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    folder = tmp_path_factory.mktemp("profile")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layer_times, "MODEL_SECONDS", 0.02)
        patched.setattr(timing, "MODEL_SECONDS", 0.02)
        patched.setattr(timing, "BLOCK_SECONDS", 0.001)
        profile(checkpoint, target=find_target("cpu"), threads=1, weight_bits=8, progress=progress, folder=folder)
    return read_table(folder / FILE)


def test_every_cell_of_every_layer_is_timed_in_each_precision(table: LatencyTable, subject: Subject) -> None:
    assert set(table.precisions) == {"fp32", "int8"}
    assert table.full == subject.full
    assert table.layers == subject.shapes
    cells = {cell for each in plan_subnetworks(subject, random.Random(0)) for _, cell in subject.cells(each)}
    for times in table.precisions.values():
        found = {(shape, *pair) for shape, pairs in times.shapes.items() for pair in pairs}
        assert found == cells
        assert all(us > 0 and nodes >= 1 for pairs in times.shapes.values() for us, nodes in pairs.values())
        assert times.scale > 0
        assert times.per_node >= 0


def test_every_subnetwork_is_a_step_that_is_told(table: LatencyTable, progress: Counted, subject: Subject) -> None:
    each = len(plan_subnetworks(subject, random.Random(0))) + FITTED + CHECKED
    export, work = progress.tasks
    assert (export.name, export.done, export.total) == ("export to profile", 1, 1)
    assert (work.name, work.done, work.total) == ("profile", 2 * each, 2 * each)
    # No more than a chunk's subnetworks are written before some are timed, and no step is long.
    assert max(work.steps) <= 3
    assert list(dict.fromkeys(work.notes)) == [
        f"{what} in {precision}" for precision in table.precisions for what in ("layers", "whole networks")
    ]


def test_the_error_is_that_of_networks_which_the_fit_has_not_seen(table: LatencyTable) -> None:
    for times in table.precisions.values():
        assert len(times.checks) == CHECKED
        assert times.error == max(abs(check.predicted_ms / check.measured_ms - 1) for check in times.checks)
        assert all(check.measured_ms > 0 for check in times.checks)


def test_the_check_predicts_what_the_clock_predicts(table: LatencyTable, subject: Subject) -> None:
    losses = Losses(
        widths={root: dict.fromkeys(grid, 0.0) for root, grid in table.grid.items()},
        blocks=dict.fromkeys(subject.removable, 0.0),
    )
    for precision, times in table.precisions.items():
        clock = Clock(table, precision, subject.layers, losses)
        for check in times.checks:
            chosen = Subnetwork(widths=check.widths, removed=frozenset(check.removed))
            # The file keeps microseconds to three digits.
            assert clock.latency_us(chosen) / 1e3 == pytest.approx(check.predicted_ms, rel=1e-3)


def test_the_fit_finds_scale_and_cost_per_node(subject: Subject) -> None:
    rng = random.Random(1)
    shapes: dict[str, dict[tuple[int, int], tuple[float, float]]] = {}
    for each in plan_subnetworks(subject, rng):
        for _, (shape, inputs, outputs) in subject.cells(each):
            shapes.setdefault(shape, {})[inputs, outputs] = (inputs * outputs / 50 + 3, 1.0 + (outputs > 8))
    times = Times(shapes=shapes, rest=(4.0, 2.0), scale=1.0, per_node=0.0, checks=())
    whole = [Subnetwork(widths=subject.full), *(random_subnetwork(subject, rng) for _ in range(FITTED + CHECKED - 1))]
    measured = []
    for each in whole:
        cells = [shapes[shape][inputs, outputs] for _, (shape, inputs, outputs) in subject.cells(each)]
        us, nodes = 4.0 + sum(cell[0] for cell in cells), 2.0 + sum(cell[1] for cell in cells)
        measured.append((0.7 * us + 1.5 * nodes) / 1e3)
    found = fit_times(subject, times, whole, measured)
    assert found.scale == pytest.approx(0.7)
    assert found.per_node == pytest.approx(1.5)
    assert found.error == pytest.approx(0, abs=1e-9)
    worse = fit_times(subject, times, whole, [*measured[:FITTED], *(2 * ms for ms in measured[FITTED:])])
    assert worse.error == pytest.approx(0.5)


@pytest.mark.parametrize("target", ["jetson", "cpu-arm64"])
def test_what_is_timed_elsewhere_is_not_timed_here(target: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"can only be timed on its own platform.*Import one measured there"):
        profile(checkpoint, target=find_target(target), threads=1, weight_bits=8, progress=Silent(), folder=tmp_path)
