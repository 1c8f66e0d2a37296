"""From ranges to integers: the arithmetic that both runtimes and PyTorch have to agree on."""

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline.artifacts import ActivationRange, Dialect
from targets.dialects.grids import Grid, activation_grid, integer_bias, integer_weights, weight_limit

ORT, TRT = Dialect.ONNXRUNTIME, Dialect.TENSORRT


def range_of(amax: float, *, signed: bool) -> ActivationRange:
    return ActivationRange(amax=amax, signed=signed, post_relu=not signed)


@pytest.mark.parametrize(
    ("dialect", "signed", "steps", "zero_point", "dtype"),
    [
        pytest.param(ORT, False, 255, 0, np.uint8, id="onnxruntime, not negative"),
        pytest.param(ORT, True, 127, 128, np.uint8, id="onnxruntime, signed"),
        pytest.param(TRT, False, 127, 0, np.int8, id="tensorrt, not negative"),
        pytest.param(TRT, True, 127, 0, np.int8, id="tensorrt, signed"),
    ],
)
def test_a_range_becomes_the_grid_of_its_dialect(
    dialect: Dialect, signed: bool, steps: int, zero_point: int, dtype: type[np.generic]
) -> None:
    grid = activation_grid(range_of(3.7, signed=signed), dialect)
    assert grid.scale == float(np.float32(3.7) / np.float32(steps))
    assert (grid.zero_point, grid.dtype) == (zero_point, dtype)
    assert (grid.low, grid.high) == (np.iinfo(grid.dtype).min, np.iinfo(grid.dtype).max)
    # The clipping point itself is a grid point, and zero is exactly zero.
    assert grid.scale * (grid.high - grid.zero_point) == pytest.approx(3.7, rel=1e-6)


def test_the_float_dialect_has_no_grid() -> None:
    with pytest.raises(ValueError, match="no integer grid"):
        activation_grid(range_of(1.0, signed=True), Dialect.FLOAT)


@pytest.mark.parametrize("dialect", [ORT, TRT])
@pytest.mark.parametrize("signed", [False, True])
def test_torch_and_onnx_round_alike_on_the_grid(dialect: Dialect, signed: bool) -> None:
    grid = activation_grid(range_of(2.0, signed=signed), dialect)
    steps = np.arange(-20, 20, dtype=np.float32)
    halves = (steps + np.float32(0.5)) * np.float32(grid.scale)
    x = np.concatenate([np.linspace(-3, 3, 1001, dtype=np.float32), halves])
    faked = torch.fake_quantize_per_tensor_affine(
        torch.from_numpy(x), grid.scale, grid.zero_point, grid.low, grid.high
    )
    np.testing.assert_array_equal(faked.numpy(), quantized_by_onnx(x, grid))


def quantized_by_onnx(x: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    constants = [
        numpy_helper.from_array(np.array(grid.scale, np.float32), "scale"),
        numpy_helper.from_array(np.array(grid.zero_point, grid.dtype), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "grid", ends[:1], ends[1:], constants), opset_imports=[helper.make_opsetid("", 20)]
    )
    onnx.checker.check_model(model, full_check=True)
    (found,) = ReferenceEvaluator(model).run(None, {"x": x})
    return np.asarray(found)


def test_seven_bits_are_63_on_both_sides() -> None:
    assert (weight_limit(7), weight_limit(8)) == (63, 127)


@pytest.mark.parametrize("shape", [(3, 4, 2, 2), (3, 16)])
@pytest.mark.parametrize("limit", [63, 127])
def test_weights_are_scaled_per_output_channel(shape: tuple[int, ...], limit: int) -> None:
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    weight *= np.array([1, 10, 100], np.float32).reshape(3, *[1] * (len(shape) - 1))
    scales = (np.abs(weight).reshape(3, -1).max(1) / limit).astype(np.float32)
    integers = integer_weights(weight, scales, limit)
    assert integers.dtype == np.int8
    assert np.abs(integers).reshape(3, -1).max(1).tolist() == [limit] * 3
    columns = scales.reshape(3, *[1] * (len(shape) - 1))
    assert (np.abs(integers * columns - weight) <= columns * 0.5001).all()


def test_weights_are_rounded_half_to_even_and_clipped_on_both_sides() -> None:
    weight = np.array([[0.5, 1.5, -0.5, -2.5, 200, -200]], np.float32)
    assert integer_weights(weight, np.ones(1, np.float32), 63).tolist() == [[0, 2, 0, -2, 63, -63]]


def test_biases_are_integers_of_32_bits() -> None:
    bias = np.array([1.0, -0.25, 1e12, -1e12], np.float32)
    integers = integer_bias(bias, np.full(4, 0.1, np.float32))
    assert integers.dtype == np.int32
    assert integers.tolist() == [10, -2, 2**31 - 1, -(2**31 - 1)]
