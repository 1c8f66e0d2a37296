"""A network that int8 breaks is held by the fewest layers in float, by name; the rest stays int8."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from attacked import BLOCK, write_attacked, write_attacked_weights, write_quantized
from numpy.typing import NDArray
from tiny_trained import Recorded, digits, preprocessing, trained

from pipeline.artifacts import Checkpoint, Dialect, Precision
from pipeline.build import build
from pipeline.data.batches import Batches
from pipeline.errors import GateFailed, WorkspaceError
from pipeline.export.export import export
from pipeline.export.result import read_export
from pipeline.models.checkpoint import build_network
from pipeline.progress import Silent
from pipeline.quantize.mixed_precision import Toll, fewest, fragilities, rescue, shortest
from pipeline.quantize.network import build_quantized
from pipeline.quantize.result import Rescue, quantization_drop, read_rescue
from pipeline.recipe import QuantizeRecipe, Recipe
from pipeline.report.document import rescue_rows, summarize, summarize_rescue
from pipeline.report.lines import rescue_texts
from pipeline.run import Run
from pipeline.training.evaluation import logits_of
from pipeline.workspace.store import Workspace
from targets.device.gate.judge import judge
from targets.device.gate.judgement import Judgement
from targets.device.model.onnxruntime_session import OnnxRuntimeSession
from targets.runtimes.registry import RUNTIMES
from targets.target import find_target

BROKEN = {f"{BLOCK}.conv1", f"{BLOCK}.conv2"}
TARGET = find_target("cpu")


@dataclass(frozen=True, kw_only=True)
class Case:
    original: Checkpoint
    quantized: Checkpoint
    rescued: Checkpoint

    @property
    def found(self) -> Rescue:
        return read_rescue(self.rescued.folder)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("rescue")
    original = write_attacked(folder / "original")
    quantized = write_quantized(original, folder / "quantized")
    return Case(original=original, quantized=quantized, rescued=write_rescued(original, quantized, folder / "rescued"))


def write_rescued(
    original: Checkpoint,
    quantized: Checkpoint,
    folder: Path,
    *,
    max_drop: float = 1.0,
    toll: Toll | None = None,
) -> Checkpoint:
    folder.mkdir()
    rescue(
        quantized, original, digits(), preprocessing(), max_drop=max_drop, toll=toll, progress=Silent(),
        folder=folder,
    )  # fmt: skip
    return Checkpoint(folder=folder)


def gate() -> Batches:
    return Batches(digits().gate, preprocessing())


def judged(case: Case, logits: NDArray[np.float32]) -> Judgement:
    before = logits_of(build_network(case.original), gate())
    return judge(digits().gate.labels, before, logits, classes=digits().classes, max_drop=1.0)


def test_the_attack_leaves_the_function_alone(case: Case) -> None:
    found, wanted = (logits_of(network, gate()) for network in (build_network(case.original), trained()))
    np.testing.assert_allclose(found, wanted, atol=1e-3 * float(np.ptp(wanted)))


def test_int8_in_every_layer_fails_at_the_gate(case: Case) -> None:
    assert quantization_drop(case.quantized.folder) > 1
    assert judged(case, logits_of(build_quantized(case.quantized), gate())).verdict == "fail"


def test_the_layers_around_the_broken_tensor_are_named_and_no_other(case: Case) -> None:
    found = case.found
    assert {layer.name for layer in found.layers} == BROKEN
    assert set(case.rescued.quantization.float_layers) == BROKEN
    assert set(case.rescued.quantization.weights) == set(case.quantized.quantization.weights) - BROKEN
    assert found.int8_drop_points == quantization_drop(case.quantized.folder)
    assert found.drop_points <= found.max_drop == 1
    # Each of them is needed.
    assert all(found.drop_points + layer.gain_points > 1 for layer in found.layers)
    assert min(found.divergences[name] for name in BROKEN) > 100 * max(
        value for name, value in found.divergences.items() if name not in BROKEN
    )


def test_weights_ranges_and_scales_stay(case: Case) -> None:
    before, after = case.quantized.quantization, case.rescued.quantization
    assert after.activations.items() < before.activations.items()
    assert after.weights.items() < before.weights.items()
    states = [build_network(each).state_dict() for each in (case.quantized, case.rescued)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.slow
def test_the_exported_file_runs_the_rest_in_int8_and_passes_the_gate(case: Case, tmp_path: Path) -> None:
    # Compares each dialect with PyTorch and with TensorRT's rules.
    export(
        case.rescued, digits(), preprocessing(), dialects=(Dialect.ONNXRUNTIME, Dialect.TENSORRT), progress=Silent(),
        folder=tmp_path,
    )  # fmt: skip
    model = read_export(tmp_path)[Dialect.ONNXRUNTIME]
    options = RUNTIMES[TARGET.runtime].session_options(TARGET, threads=1)
    audit = RUNTIMES[TARGET.runtime].audit(model, options=options)
    assert set(audit.kept_float) == BROKEN
    assert (audit.float_nodes, audit.int8_nodes) == (2, len(case.rescued.quantization.weights))
    with OnnxRuntimeSession(model.path, options) as session:
        pixels = [images for images, _ in gate().epoch(0)]
        answers = np.concatenate([session.infer(images.numpy()) for images in pixels])
    assert judged(case, answers).verdict == "pass"


@pytest.mark.long
def test_a_build_passes_with_the_two_layers_in_float_and_says_so(tmp_path: Path) -> None:
    write_attacked_weights(tmp_path / "attacked.safetensors")
    sections = {"preprocessing": {"crop": 16}, "quantize": {"qat_epochs": 0}, "package": {"image": False}}
    recipe = Recipe.model_validate(
        {"checkpoint": str(tmp_path / "attacked.safetensors"), "data": "digits", **sections}
    )
    # Of int8 alone, since fp32 is as fast for a network as small as this.
    target = replace(TARGET, precisions=(Precision.INT8,))
    progress = Recorded()
    run = Run(
        recipe=recipe, target=target, dataset=digits(), workspace=Workspace(tmp_path / ".deploy"), progress=progress
    )
    outcome = build(run, until=None)
    assert outcome.error is None
    found = summarize(outcome)
    assert found.verdict == "pass"
    assert found.float_nodes == 2
    assert found.rescue is not None
    assert {layer.name for layer in found.rescue.layers} == BROKEN
    assert all(any(f"{name} in float: saves" in line for line in progress.lines) for name in BROKEN)
    again = build(run, until=None)
    assert again.was_done_before
    alone = replace(run, recipe=recipe.model_copy(update={"quantize": QuantizeRecipe(qat_epochs=0, fallback="none")}))
    failed = build(alone, until=None)
    assert isinstance(failed.error, GateFailed)
    assert summarize(failed).rescue is None


@pytest.mark.long
def test_each_layer_is_timed_where_the_targets_clock_is_here(case: Case, tmp_path: Path) -> None:
    toll = Toll(checkpoint=case.quantized, target=TARGET, threads=1)
    timed = write_rescued(case.original, case.quantized, tmp_path / "timed", toll=toll)
    found = read_rescue(timed.folder)
    assert {layer.name for layer in found.layers} == BROKEN
    assert all(layer.cost_ms is not None for layer in found.layers)
    assert found.int8_ms is not None
    assert found.mixed_ms is not None
    assert 0 < found.int8_ms < 10 * found.mixed_ms
    assert f"{found.int8_ms:.3g} -> {found.mixed_ms:.3g} ms" in rescue_texts(found)[0]
    # Times are kept apart, so that equal work has equal digests.
    assert (timed.folder / "rescue.json").read_text() == (case.rescued.folder / "rescue.json").read_text()


def test_it_is_said_by_name_and_figure(case: Case) -> None:
    found = case.found
    first, *rest = rescue_texts(found)
    assert first == (
        f"int8 in every layer loses {found.int8_drop_points:.2f} points on the 100 images of the selection split, "
        f"1 allowed; with 2 layers in float {found.drop_points:.2f}:"
    )
    assert len(rest) == 2
    for layer, text in zip(found.layers, rest, strict=True):
        assert text.split() == [
            layer.name, "in", "float:", "saves", f"{layer.gain_points:.2f}", "points,", "time", "not", "measured",
        ]  # fmt: skip
    rows = rescue_rows(summarize_rescue(found))
    assert [row[2] for row in rows] == [layer.name for layer in found.layers]
    assert rescue_texts(None) == []
    assert rescue_rows(None) == []


def test_where_half_of_the_layers_do_not_suffice_nothing_changes_and_it_is_said(case: Case, tmp_path: Path) -> None:
    left = write_rescued(case.original, case.quantized, tmp_path / "left", max_drop=-50.0)
    found = read_rescue(left.folder)
    assert found.layers == ()
    assert found.drop_points == found.int8_drop_points
    assert left.quantization == case.quantized.quantization
    assert rescue_texts(found)[0].endswith("even half of the layers in float would not suffice, so none is")


def test_the_constant_of_a_shortcut_is_no_layer_to_put_in_float(case: Case) -> None:
    found = fragilities(
        build_quantized(case.quantized), Batches(digits().selection, preprocessing()), progress=Silent()
    )
    assert set(found) == {name for name in case.quantized.quantization.weights if "downsample" not in name}
    assert set(found) == set(case.found.divergences)


@pytest.mark.parametrize("file", ["rescue.json", "timings.json"])
def test_a_damaged_folder_is_named(file: str, case: Case, tmp_path: Path) -> None:
    for name in ("rescue.json", "timings.json"):
        (tmp_path / name).write_bytes((case.rescued.folder / name).read_bytes())
    (tmp_path / file).write_text("{}")
    with pytest.raises(WorkspaceError, match=r"is damaged \("):
        read_rescue(tmp_path)
    with pytest.raises(WorkspaceError, match=r"is damaged \("):
        quantization_drop(tmp_path)


def losing(points: dict[str, float]) -> Callable[[frozenset[str]], float]:
    """A drop that is the sum of what the layers in int8 lose."""
    return lambda in_float: sum(value for name, value in points.items() if name not in in_float)


@pytest.mark.parametrize("enough", range(1, 10))
def test_the_shortest_beginning_that_suffices_is_found(enough: int) -> None:
    ranking = [f"layer{index}" for index in range(9)]
    drop = losing({name: 1.0 for name in ranking[:enough]})
    assert shortest(ranking, drop, 0.5) == tuple(ranking[:enough])


@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_no_beginning_suffices(length: int) -> None:
    assert shortest([f"layer{index}" for index in range(length)], lambda _: 2.0, 1.0) == ()


def test_layers_that_are_not_needed_go_back_the_dearest_first() -> None:
    drop = losing({"a": 3.0, "b": 0.4, "c": 0.4, "d": 2.0})
    layers = ("a", "b", "c", "d")
    assert fewest(layers, drop, 1.0, {}) == ("a", "d")
    assert fewest(layers, drop, 0.5, {}) == ("a", "b", "d")
    assert fewest(layers, drop, 0.5, {"a": 0.1, "b": 9.0, "c": 0.2, "d": 0.1}) == ("a", "c", "d")
    assert fewest((), drop, 1.0, {}) == ()
    # One of them is left even where the budget would not need it.
    assert fewest(("b",), drop, 99.0, {}) == ("b",)
