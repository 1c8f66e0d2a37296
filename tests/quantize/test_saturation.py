"""The 7-bit variant of a network that was quantized to 8 bits: the same network, and no sum that leaves 16 bits."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from tiny_quantized import NETWORKS, noise, write_export, write_original, write_quantized

from pipeline.artifacts import Checkpoint, Dialect
from pipeline.quantize.fake_quant import Mode, set_mode
from pipeline.quantize.network import build_quantized, derive
from targets.device.model.cpu import saturates_8bit

INT16 = 32_767


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def networks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, Checkpoint]:
    """A network with 8-bit weights, and its variant."""
    folder = tmp_path_factory.mktemp("saturation")
    original = write_original(request.param, folder / "original")
    quantized = write_quantized(original, folder / "8", weight_bits=8, keep_float=("conv1",))
    derive(quantized, folder / "7")
    return quantized, Checkpoint(folder=folder / "7")


def integers_of(path: Path) -> dict[str, NDArray[np.int8]]:
    """The integer weights [C, ...] of an ONNX file, by name."""
    tensors = {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
    return {name: value for name, value in tensors.items() if value.dtype == np.int8 and value.ndim > 1}


def largest_pair_sum(weights: NDArray[np.int8]) -> int:
    """Of two products with inputs of 0 to 255: two weights of a filter that add up, whatever the kernel's order.

    Signs count: only weights of one sign make a sum large, the inputs being not negative.
    """
    rows = weights.reshape(len(weights), -1).astype(np.int64)
    ordered = np.sort(rows, axis=1)
    return int(255 * max(ordered[:, -2:].sum(axis=1).max(), -ordered[:, :2].sum(axis=1).min()))


def test_all_but_the_width_of_the_weights_stays(networks: tuple[Checkpoint, Checkpoint]) -> None:
    quantized, safe = networks
    before, after = quantized.quantization, safe.quantization
    assert (before.weight_bits, after.weight_bits) == (8, 7)
    assert after.activations == before.activations
    assert after.float_layers == before.float_layers == ("conv1",)
    assert set(after.weights) == set(before.weights)
    for name, scales in after.weights.items():
        # The largest weight lies on 63 in place of 127, but for channels of zeros, whose scale is 1.
        ratios = np.array(scales) / np.array(before.weights[name])
        assert np.all(np.isclose(ratios, 127 / 63, rtol=1e-4) | (np.array(scales) == 1.0)), name
    networks_of = [build_quantized(each) for each in networks]
    for network in networks_of:
        set_mode(network, Mode.FLOAT)
    one, other = (network(noise(8)).detach().numpy() for network in networks_of)
    np.testing.assert_array_equal(one, other)


def test_it_answers_nearly_as_before(networks: tuple[Checkpoint, Checkpoint]) -> None:
    one, other = (build_quantized(each)(noise(32)).detach().numpy() for each in networks)
    assert 0 < np.abs(one - other).mean() < 0.05 * np.ptp(one)


@pytest.mark.skipif(saturates_8bit(), reason="this CPU's kernels saturate, so 8-bit weights fail the parity check")
def test_no_sum_of_two_products_leaves_16_bits(networks: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    found = [
        integers_of(write_export(each, tmp_path / str(bits), (Dialect.ONNXRUNTIME,))[Dialect.ONNXRUNTIME].path)
        for bits, each in zip((8, 7), networks, strict=True)
    ]
    wide, narrow = found
    assert set(narrow) == set(wide)
    assert len(narrow) == len(networks[1].quantization.weights)
    assert max(int(np.abs(each.astype(int)).max()) for each in narrow.values()) == 63
    assert max(map(largest_pair_sum, narrow.values())) <= INT16
    assert max(map(largest_pair_sum, wide.values())) > INT16
