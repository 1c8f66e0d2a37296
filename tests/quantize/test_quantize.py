"""The stage from end to end: real digits, a real network, its folder, and what is built from it again."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_quantized import (
    NETWORKS,
    PREPROCESSING,
    digits,
    float_network,
    noise,
    write_original,
    write_quantized,
)

from pipeline.artifacts import Checkpoint
from pipeline.data.batches import Batches
from pipeline.errors import CompressionError, RecipeError
from pipeline.models.checkpoint import build_network, save_network
from pipeline.models.folding import trace_folded
from pipeline.quantize.network import build_quantized
from pipeline.quantize.quantize import _what_got_worse
from pipeline.training.evaluation import divergence, logits_of
from pipeline.workspace.hashing import sha256_of_folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_original("option A", tmp_path_factory.mktemp("original") / "checkpoint")


@pytest.fixture(scope="module")
def calibrated(original: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_quantized(original, tmp_path_factory.mktemp("calibrated") / "checkpoint")


@pytest.fixture(scope="module")
def trained(original: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_quantized(original, tmp_path_factory.mktemp("trained") / "checkpoint", qat_epochs=1)


def facts_of(checkpoint: Checkpoint) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((checkpoint.folder / "quantize.json").read_text())
    return facts


def answers(network: torch.nn.Module) -> np.ndarray[Any, np.dtype[np.float32]]:
    return logits_of(network, Batches(digits().selection, PREPROCESSING))


def test_the_folder_is_a_checkpoint_with_parameters_and_facts(calibrated: Checkpoint) -> None:
    assert {path.name for path in calibrated.folder.iterdir()} == {
        "weights.safetensors",
        "architecture.json",
        "cost.json",
        "quantization.json",
        "quantize.json",
    }
    assert calibrated.is_quantized
    assert calibrated.architecture == NETWORKS["option A"]
    assert calibrated.quantization.weight_bits == 7
    assert calibrated.quantization.float_layers == ()
    assert len(calibrated.quantization.weights) == 7


def test_calibration_alone_leaves_the_float_network_as_it_was(original: Checkpoint, calibrated: Checkpoint) -> None:
    before, after = (trace_folded(build_network(checkpoint)) for checkpoint in (original, calibrated))
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())


def test_training_changes_the_weights_unless_it_was_not_kept(calibrated: Checkpoint, trained: Checkpoint) -> None:
    facts = facts_of(trained)
    assert facts_of(calibrated)["trained"] is None
    assert facts_of(calibrated)["kept"] == "calibrated"
    assert facts["calibrated"] == facts_of(calibrated)["calibrated"]
    assert facts["trained"] is not None
    assert facts["kept"] in ("calibrated", "trained")
    same = torch.equal(build_network(calibrated)(noise(2)), build_network(trained)(noise(2)))
    assert same == (facts["kept"] == "calibrated")


def test_training_leaves_the_ranges_alone(calibrated: Checkpoint, trained: Checkpoint) -> None:
    assert trained.quantization.activations == calibrated.quantization.activations


@pytest.mark.parametrize("epochs", [0, 1])
def test_what_is_built_again_answers_as_the_network_that_was_measured(
    epochs: int, original: Checkpoint, calibrated: Checkpoint, trained: Checkpoint
) -> None:
    checkpoint = trained if epochs else calibrated
    facts = facts_of(checkpoint)
    found = answers(build_quantized(checkpoint))
    kept = facts[facts["kept"]]
    assert divergence(found, answers(build_network(original))) == pytest.approx(kept["divergence"], rel=1e-6)
    assert float((found.argmax(1) == digits().selection.labels).mean()) == kept["top1"]


def test_the_shortcuts_constant_stays_the_constant(trained: Checkpoint) -> None:
    weight = build_network(trained).get_submodule("layer2.0.downsample.0").weight
    assert isinstance(weight, torch.Tensor)
    assert set(weight.flatten().tolist()) == {0, 1}


def test_the_same_seed_gives_the_same_bytes(original: Checkpoint, trained: Checkpoint, tmp_path: Path) -> None:
    torch.rand(3)  # whatever was drawn before has no part in it
    again = write_quantized(original, tmp_path / "again", qat_epochs=1)
    assert sha256_of_folder(again.folder) == sha256_of_folder(trained.folder)
    other = write_quantized(original, tmp_path / "other", qat_epochs=1, seed=1)
    assert facts_of(other)["trained"] != facts_of(trained)["trained"]
    assert facts_of(other)["calibrated"] == facts_of(trained)["calibrated"]


def test_layers_are_kept_in_float_by_name(original: Checkpoint, tmp_path: Path) -> None:
    quantization = write_quantized(original, tmp_path / "out", weight_bits=8, keep_float=("fc", "conv1")).quantization
    assert quantization.weight_bits == 8
    assert quantization.float_layers == ("conv1", "fc")
    assert not {"conv1", "fc"} & set(quantization.weights)


def test_a_misspelt_layer_writes_nothing(original: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'conv'.*Did you mean conv1\?"):
        write_quantized(original, tmp_path / "out", keep_float=("conv",))
    assert not list((tmp_path / "out").iterdir())


def test_activations_that_are_no_numbers_have_no_range(tmp_path: Path) -> None:
    network = float_network("option A")
    state = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        network.get_parameter("layer1.0.conv1.weight").fill_(3e38)
        network.get_parameter("layer1.0.bn1.weight").fill_(3e38)
    try:
        save_network(network, NETWORKS["option A"], tmp_path / "broken")
    finally:
        network.load_state_dict(state)
    with pytest.raises(CompressionError, match=r"activations at layer1\.0\.conv1 are not finite"):
        write_quantized(Checkpoint(folder=tmp_path / "broken"), tmp_path / "out")


@pytest.mark.parametrize(
    ("trained_facts", "harm"),
    [
        ({"divergence": 0.1, "right": 90}, None),
        ({"divergence": 0.09, "right": 95}, None),
        ({"divergence": 0.11, "right": 95}, "divergence from the float model 0.1 -> 0.11"),
        ({"divergence": 0.01, "right": 89}, "correct answers 90 -> 89"),
        ({"divergence": 0.2, "right": 44}, "divergence .*; correct answers 90 -> 44"),
    ],
)
def test_training_is_kept_only_where_neither_divergence_nor_right_answers_get_worse(
    trained_facts: dict[str, float], harm: str | None
) -> None:
    found = _what_got_worse({"divergence": 0.1, "right": 90}, trained_facts)
    assert found is None if harm is None else re.fullmatch(harm, found or "")


def test_divergence_is_zero_for_the_same_answers_and_positive_otherwise() -> None:
    wanted = np.array([[2.0, 0.0, -1.0], [0.0, 3.0, 0.5]], np.float32)
    assert divergence(wanted, wanted) == 0
    # Softmax does not see a constant.
    assert divergence(wanted + 100, wanted) == pytest.approx(0, abs=1e-6)
    near, far = divergence(wanted * 1.1, wanted), divergence(-wanted, wanted)
    assert 0 < near < far
    # By hand: KL of (1/2, 1/2) from (3/4, 1/4).
    logits = np.log(np.array([[0.5, 0.5]], np.float32))
    of = np.log(np.array([[0.75, 0.25]], np.float32))
    assert divergence(logits, of) == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_divergence_of_no_numbers_is_infinite(bad: float) -> None:
    wanted = np.zeros((2, 3), np.float32)
    broken = wanted.copy()
    broken[1, 1] = bad
    assert divergence(broken, wanted) == np.inf
