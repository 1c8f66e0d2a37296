"""A quantized checkpoint is a float one with parameters beside it; from both the same network is built again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_quantized import calibrated, exported, float_network, noise
from torch import Tensor, nn

from pipeline.artifacts import Checkpoint
from pipeline.errors import CheckpointError, CompressionError, RecipeError
from pipeline.quantize.fake_quant import Mode, QuantizedConv2d, QuantizedLinear, set_mode
from pipeline.quantize.network import build_quantized, points_of, prepare, quantization_of


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        out = torch.relu(self.shared(torch.relu(self.stem(images))))
        result: Tensor = self.fc(torch.relu(self.shared(out)).mean((2, 3)))
        return result


def quantized_layers(network: nn.Module) -> set[str]:
    kinds = (QuantizedConv2d, QuantizedLinear)
    return {name for name, module in network.named_modules() if isinstance(module, kinds)}


def test_preparing_changes_neither_function_nor_the_network_itself() -> None:
    network = float_network("option B")
    prepared = prepare(network, weight_bits=8)
    torch.testing.assert_close(prepared(noise(4)), network(noise(4)), rtol=1e-4, atol=1e-4)
    assert not quantized_layers(network)
    assert "layer2.0.downsample.0" in quantized_layers(prepared)
    assert len(quantized_layers(prepared)) == 9


def test_integers_move_the_answers_a_little() -> None:
    network = calibrated(float_network("option B"))
    integers = network(noise(32))
    set_mode(network, Mode.FLOAT)
    moved = (integers - network(noise(32))).abs().mean() / network(noise(32)).std()
    assert 0 < float(moved.detach()) < 0.1


def test_layers_kept_in_float_are_plain_layers() -> None:
    prepared = prepare(float_network("option B"), weight_bits=8, keep_float=("conv1", "fc"))
    assert not {"conv1", "fc"} & quantized_layers(prepared)
    assert len(quantized_layers(prepared)) == 7


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param(("layer1.0.conv3",), r"'layer1\.0\.conv3', .* Did you mean layer1\.0\.conv\d\?", id="misspelt"),
        pytest.param(("bn1",), r"'bn1', which is not a Conv2d or Linear of the network", id="not a layer"),
        pytest.param(("backbone",), r"'backbone'.* Known: conv1, .*fc\.", id="nothing like it"),
    ],
)
def test_a_name_that_is_no_layer_is_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        prepare(float_network("option A"), weight_bits=8, keep_float=names)
    assert caught.value.exit_code == 3


def test_keeping_every_layer_in_float_is_no_quantization() -> None:
    network = float_network("option A")
    every = tuple(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear))
    with pytest.raises(RecipeError, match=f"names all {len(every)} layers, so nothing is left to quantize"):
        prepare(network, weight_bits=8, keep_float=every)


def test_a_layer_that_is_called_twice_has_no_grid_of_its_own() -> None:
    with pytest.raises(CompressionError, match=r"shared is called 2 times.*keep_float"):
        prepare(CalledTwice(), weight_bits=8)
    prepared = prepare(CalledTwice(), weight_bits=8, keep_float=("shared",))
    assert quantized_layers(prepared) == {"stem", "fc"}


def test_the_parameters_are_data_that_survives_json() -> None:
    network = calibrated(float_network("option A"), weight_bits=7, keep_float=("fc", "conv1"))
    quantization = quantization_of(network, weight_bits=7, float_layers=("fc", "conv1"))
    assert type(quantization).from_json(quantization.to_json()) == quantization
    assert quantization.float_layers == ("conv1", "fc")
    assert set(quantization.weights) == quantized_layers(network)
    assert len(quantization.weights["layer2.0.conv1"]) == 16
    assert set(quantization.activations) == {point.name for point in points_of(network)}
    assert quantization.activations["layer1.0.add"].post_relu


@pytest.fixture
def checkpoint(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A quantized checkpoint to damage."""
    original = exported("option A", tmp_path_factory).quantized
    return Checkpoint(folder=Path(shutil.copytree(original.folder, tmp_path / "checkpoint")))


def test_building_again_freezes_the_scales_that_were_written(checkpoint: Checkpoint) -> None:
    network = build_quantized(checkpoint)
    assert not network.training
    again = quantization_of(network, weight_bits=7, float_layers=())
    assert again == checkpoint.quantization
    logits = network(noise(4))
    assert torch.equal(build_quantized(checkpoint)(noise(4)), logits)
    set_mode(network, Mode.FLOAT)
    assert not torch.equal(network(noise(4)), logits)


def test_the_scales_that_were_written_count_not_those_that_the_weights_would_have(checkpoint: Checkpoint) -> None:
    file = checkpoint.folder / "quantization.json"
    raw = json.loads(file.read_text())
    raw["weights"]["fc"] = [scale * 2 for scale in raw["weights"]["fc"]]
    before = build_quantized(checkpoint)(noise(4))
    file.write_text(json.dumps(raw))
    again = build_quantized(checkpoint)
    assert quantization_of(again, weight_bits=7, float_layers=()) == checkpoint.quantization
    assert not torch.equal(again(noise(4)), before)


def drop_range(raw: dict[str, Any]) -> None:
    del raw["activations"]["layer1.0.add"]


def drop_scales(raw: dict[str, Any]) -> None:
    del raw["weights"]["layer1.0.conv2"]


def shorten_scales(raw: dict[str, Any]) -> None:
    raw["weights"]["fc"] = raw["weights"]["fc"][:3]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_range, r"no range for layer1\.0\.add; it belongs to another network"),
        (drop_scales, r"0 scales for the 8 channels of layer1\.0\.conv2; it belongs to another network"),
        (shorten_scales, r"3 scales for the 10 channels of fc"),
    ],
)
def test_parameters_of_another_network_are_refused(
    damage: Callable[[dict[str, Any]], None], message: str, checkpoint: Checkpoint
) -> None:
    file = checkpoint.folder / "quantization.json"
    raw = json.loads(file.read_text())
    damage(raw)
    file.write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=message):
        build_quantized(checkpoint)
