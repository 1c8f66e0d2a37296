"""Points and layers compute what the integers will, and let gradients pass where training needs them."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.artifacts import ActivationRange, Dialect
from pipeline.quantize.fake_quant import Mode, Point, QuantizedConv2d, QuantizedLinear, Quantizer, set_mode
from targets.dialects.grids import activation_grid, integer_bias, integer_weights, weight_limit

INTEGER_MODES = {Mode.ONNXRUNTIME: Dialect.ONNXRUNTIME, Mode.TENSORRT: Dialect.TENSORRT}


def point(*, amax: float = 2.0, signed: bool = True, mode: Mode = Mode.ONNXRUNTIME) -> Point:
    made = Point("somewhere", post_relu=not signed)
    made.range = ActivationRange(amax=amax, signed=signed, post_relu=not signed)
    made.mode = mode
    return made


def layer(*, bits: Literal[7, 8] = 8, mode: Mode = Mode.ONNXRUNTIME, bias: bool = True) -> QuantizedConv2d:
    torch.manual_seed(0)
    made = QuantizedConv2d(nn.Conv2d(4, 6, 3, bias=bias), Quantizer("conv", point(), bits))
    set_mode(made, mode)
    return made


def values() -> Tensor:
    return torch.linspace(-3, 3, 601)


@pytest.mark.parametrize("mode", INTEGER_MODES)
@pytest.mark.parametrize("signed", [False, True])
def test_a_point_rounds_to_the_grid_of_its_dialect(mode: Mode, signed: bool) -> None:
    made = point(signed=signed, mode=mode)
    x = values() if signed else values().relu()
    grid = activation_grid(made.known_range(), INTEGER_MODES[mode])
    integers = made(x, True) / grid.scale + grid.zero_point
    torch.testing.assert_close(integers, integers.round(), rtol=0, atol=1e-4)
    assert int(integers.round().min()) >= grid.low
    assert int(integers.round().max()) == grid.high
    assert float((made(x, True) - x.clamp(max=2.0)).abs()[x > -2].max()) <= grid.scale * 0.5001


def test_tensorrt_leaves_alone_what_it_does_not_quantize() -> None:
    x = values()
    assert point(mode=Mode.TENSORRT)(x, False) is x
    assert not torch.equal(point(mode=Mode.ONNXRUNTIME)(x, False), x)
    assert point(mode=Mode.FLOAT)(x, True) is x


def test_calibration_counts_and_changes_nothing() -> None:
    made, x = point(mode=Mode.CALIBRATE), values()
    assert made(x, False) is x
    assert made.histogram.counts.sum() == len(x)
    assert made.histogram.largest == 3
    assert point(mode=Mode.ONNXRUNTIME).histogram.largest == 0


def test_a_point_that_was_never_calibrated_says_so() -> None:
    made = Point("layer1.0.conv1", post_relu=False)
    made.mode = Mode.ONNXRUNTIME
    with pytest.raises(AssertionError, match=r"layer1\.0\.conv1 has not been calibrated"):
        made(values(), True)


def test_gradients_pass_inside_the_range_and_stop_outside() -> None:
    x = torch.tensor([-5.0, -1.0, 0.3, 1.9, 5.0], requires_grad=True)
    torch.autograd.backward(point()(x, True).sum())
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("mode", INTEGER_MODES)
def test_gradients_reach_weight_and_bias_as_if_nothing_were_rounded(mode: Mode) -> None:
    weight, bias = torch.randn(6, 4, 3, 3, requires_grad=True), torch.randn(6, requires_grad=True)
    rounded_weight, rounded_bias = layer(mode=mode).quantizer(weight, bias)
    assert rounded_bias is not None
    torch.autograd.backward((rounded_weight * 3).sum() + (rounded_bias * 5).sum())
    assert weight.grad is not None
    assert bias.grad is not None
    assert torch.equal(weight.grad, torch.full_like(weight, 3))
    assert torch.equal(bias.grad, torch.full_like(bias, 5))


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("mode", INTEGER_MODES)
def test_weights_are_the_ones_that_the_dialects_store(bits: Literal[7, 8], mode: Mode) -> None:
    made = layer(bits=bits, mode=mode)
    weight, _ = made.quantizer(made.weight, made.bias)
    scales = made.quantizer.current_scales(made.weight, made.bias)
    stored = integer_weights(made.weight.detach().numpy(), scales.numpy(), weight_limit(bits))
    assert np.abs(stored).max() == weight_limit(bits)
    np.testing.assert_array_equal(weight.detach().numpy(), stored * scales.numpy().reshape(-1, 1, 1, 1))


def test_biases_are_the_ones_that_onnx_runtime_adds() -> None:
    made = layer()
    assert made.bias is not None
    _, bias = made.quantizer(made.weight, made.bias)
    assert bias is not None
    grid = activation_grid(made.quantizer.source.known_range(), Dialect.ONNXRUNTIME)
    sums = np.float32(grid.scale) * made.quantizer.current_scales(made.weight, made.bias).numpy()
    stored = integer_bias(made.bias.detach().numpy(), sums)
    np.testing.assert_allclose(bias.detach().numpy(), stored * sums, rtol=1e-6)
    assert not torch.equal(bias, made.bias)


def test_tensorrt_keeps_the_float_bias() -> None:
    made = layer(mode=Mode.TENSORRT)
    assert made.quantizer(made.weight, made.bias)[1] is made.bias


def test_a_channel_of_zeros_has_a_scale_to_divide_by() -> None:
    made = layer(bias=False)
    with torch.no_grad():
        made.weight[2] = 0
    scales = made.quantizer.current_scales(made.weight, None)
    assert scales[2] == 1
    assert (scales > 0).all()
    assert torch.isfinite(made(torch.randn(1, 4, 5, 5))).all()


def test_a_bias_far_above_its_weights_widens_the_scale_until_it_fits_int32() -> None:
    made = layer()
    assert made.bias is not None
    with torch.no_grad():
        made.weight[0] = 0
        made.weight[1] *= 1e-9
        made.bias[:2] = torch.tensor([-3.0, 4.0])
    grid = activation_grid(made.quantizer.source.known_range(), Dialect.ONNXRUNTIME)
    scales = made.quantizer.current_scales(made.weight, made.bias)
    stored = integer_bias(made.bias.detach().numpy(), np.float32(grid.scale) * scales.numpy())
    assert np.abs(stored.astype(np.int64)).max() <= 2**30 + 128
    np.testing.assert_allclose(stored * np.float32(grid.scale) * scales.numpy(), made.bias.detach().numpy(), rtol=1e-3)


def test_frozen_scales_stay_when_the_weights_move() -> None:
    made = layer()
    frozen = made.quantizer.current_scales(made.weight, made.bias)
    made.quantizer.scales = frozen
    with torch.no_grad():
        made.weight.mul_(3)
    assert made.quantizer.current_scales(made.weight, made.bias) is frozen
    made.quantizer.scales = None
    assert not torch.equal(made.quantizer.current_scales(made.weight, made.bias), frozen)


@pytest.mark.parametrize(
    "original",
    [
        pytest.param(nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), id="strided, dilated, grouped"),
        pytest.param(nn.Conv2d(4, 6, (1, 3), padding=(0, 1), bias=False), id="not square, no bias"),
        pytest.param(nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect"), id="padded by reflection"),
        pytest.param(nn.Linear(9, 6), id="linear"),
        pytest.param(nn.Linear(9, 6, bias=False), id="linear, no bias"),
    ],
)
def test_a_quantized_layer_in_float_is_the_layer_itself(original: nn.Conv2d | nn.Linear) -> None:
    quantizer = Quantizer("layer", point(), 8)
    made = (
        QuantizedLinear(original, quantizer)
        if isinstance(original, nn.Linear)
        else QuantizedConv2d(original, quantizer)
    )
    assert made.weight is original.weight
    assert made.state_dict().keys() == original.state_dict().keys()
    x = torch.randn(2, 4, 9, 9)
    assert torch.equal(made(x), original(x))
    set_mode(made, Mode.ONNXRUNTIME)
    assert not torch.equal(made(x), original(x))
    torch.testing.assert_close(made(x), original(x), rtol=0, atol=0.1)


def test_one_call_sets_the_mode_of_everything() -> None:
    network = nn.ModuleList([point(mode=Mode.FLOAT), nn.ModuleList([layer(mode=Mode.FLOAT)]), nn.ReLU()])
    set_mode(network, Mode.TENSORRT)
    made, inner = network[0], network[1][0]  # type: ignore[index]
    assert isinstance(made, Point)
    assert isinstance(inner, QuantizedConv2d)
    assert (made.mode, inner.quantizer.mode) == (Mode.TENSORRT, Mode.TENSORRT)
