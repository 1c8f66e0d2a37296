"""Layers and activations that compute on the device's integer grid, in floats that can be trained.

Rounding has no useful gradient; the straight-through estimator (Bengio et al. 2013) passes it unchanged inside
the range and stops it outside. Weights and activations then adapt to their rounding (Jacob et al. 2018).
"""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Literal, Protocol, assert_never

import torch
from torch import Tensor, nn

from pipeline.artifacts import ActivationRange, Dialect
from pipeline.quantize.ranges import Histogram
from pipeline.quantize.rounding import fake_quantize
from targets.dialects.grids import activation_grid, weight_limit
from targets.dialects.markers import DOMAIN, POINT, WEIGHT

# Half of int32: the rest holds the sum of the products, at most 255 * 127 for each of the filter's weights.
LARGEST_BIAS = 2.0**30


class Mode(StrEnum):
    """What points and layers compute."""

    FLOAT = "float"
    CALIBRATE = "calibrate"
    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    MARKED = "marked"


class Moving(Protocol):
    """A range that is trained with its point, on ONNX Runtime's grid (`benchmarks.scales`)."""

    @property
    def amax(self) -> float: ...

    def __call__(self, x: Tensor) -> Tensor: ...


class Point(nn.Module):
    """One tensor's quantization point; called again after pooling or reshaping of the same values."""

    def __init__(self, name: str, *, post_relu: bool) -> None:
        super().__init__()
        self.name = name
        self.post_relu = post_relu
        self.mode = Mode.FLOAT
        self.range: ActivationRange | None = None
        self.moving: Moving | None = None
        """None if the calibrated range is fixed."""
        self.histogram = Histogram()

    def forward(self, x: Tensor, tensorrt: bool) -> Tensor:
        """Quantize `x`. `tensorrt`: whether the TensorRT dialect quantizes at this place."""
        match self.mode:
            case Mode.FLOAT:
                return x
            case Mode.CALIBRATE:
                self.histogram.observe(x.detach())
                return x
            case Mode.ONNXRUNTIME:
                return self._fake_quantize(x, Dialect.ONNXRUNTIME)
            case Mode.TENSORRT:
                return self._fake_quantize(x, Dialect.TENSORRT) if tensorrt else x
            case Mode.MARKED:
                return _marker(POINT, x, name=self.name, tensorrt=int(tensorrt))
            case _:
                assert_never(self.mode)

    def known_range(self) -> ActivationRange:
        assert self.range is not None, f"{self.name} has not been calibrated"
        return self.range if self.moving is None else replace(self.range, amax=self.moving.amax)

    def _fake_quantize(self, x: Tensor, dialect: Dialect) -> Tensor:
        if self.moving is not None and self.training:
            return self.moving(x)
        grid = activation_grid(self.known_range(), dialect)
        return fake_quantize(x, grid)


class Quantizer:
    """Quantizer of one layer's weight and bias; `source` is the point of its input."""

    def __init__(self, name: str, source: Point, bits: Literal[7, 8]) -> None:
        self.name = name
        self.source = source
        self.limit = weight_limit(bits)
        self.mode = Mode.FLOAT
        self.scales: Tensor | None = None
        """One per output channel [C]; None in training, when they follow the weights."""
        self.shares: Tensor | None = None
        """Shares of each channel's largest magnitude [C] at which scales clip it; None: no clipping."""
        self.rounding: Callable[[Tensor, Tensor, int], Tensor] = _rounded_weight
        """(weight, scales [C], limit) -> the weight on its grid, with gradients."""

    def __call__(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        match self.mode:
            case Mode.FLOAT | Mode.CALIBRATE:
                return weight, bias
            case Mode.ONNXRUNTIME:
                scales = self.current_scales(weight, bias)
                return self.rounding(weight, scales, self.limit), None if bias is None else self._bias(bias, scales)
            case Mode.TENSORRT:
                return self.rounding(weight, self.current_scales(weight, bias), self.limit), bias
            case Mode.MARKED:
                return _marker(WEIGHT, weight, name=self.name), bias
            case _:
                assert_never(self.mode)

    def current_scales(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return scales [C] that use the whole integer range, but are large enough for biases in int32.

        A channel of zeros (pruned, or padding of an option-A shortcut) gets the scale 1.
        """
        if self.scales is not None:
            return self.scales
        scales = weight.detach().abs().flatten(1).amax(1) / self.limit
        if self.shares is not None:
            scales = scales * self.shares
        if bias is not None:
            # The finest grid of the input in any dialect.
            input_scale = activation_grid(self.source.known_range(), Dialect.ONNXRUNTIME).scale
            scales = torch.maximum(scales, bias.detach().abs() / (input_scale * LARGEST_BIAS))
        return torch.where(scales > 0, scales, torch.ones_like(scales))

    def _bias(self, bias: Tensor, scales: Tensor) -> Tensor:
        """Return the bias on the grid of the int32 sums, as ONNX Runtime rounds it: parity is eight times better."""
        input_scale = activation_grid(self.source.known_range(), Dialect.ONNXRUNTIME).scale
        sums = torch.tensor(input_scale, dtype=scales.dtype) * scales.detach()
        return _straight_through(bias, (bias.detach() / sums).round() * sums)


class QuantizedConv2d(nn.Conv2d):
    """A Conv2d with the weights of another one; its state dict equals the float layer's."""

    def __init__(self, layer: nn.Conv2d, quantizer: Quantizer) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            stride=layer.stride,  # type: ignore[arg-type]
            padding=layer.padding,  # type: ignore[arg-type]
            dilation=layer.dilation,  # type: ignore[arg-type]
            groups=layer.groups,
            bias=layer.bias is not None,
            padding_mode=layer.padding_mode,
            device="meta",
        )
        self.weight, self.bias = layer.weight, layer.bias
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.quantizer(self.weight, self.bias)
        convolved: Tensor = self._conv_forward(x, weight, bias)
        return convolved


class QuantizedLinear(nn.Linear):
    """A Linear with the weights of another one; its state dict equals the float layer's."""

    def __init__(self, layer: nn.Linear, quantizer: Quantizer) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.quantizer(self.weight, self.bias)
        return nn.functional.linear(x, weight, bias)


def set_mode(network: nn.Module, mode: Mode) -> None:
    """Set the mode of every point and layer of `network`."""
    for module in network.modules():
        if isinstance(module, Point):
            module.mode = mode
        elif isinstance(module, QuantizedConv2d | QuantizedLinear):
            module.quantizer.mode = mode


def _rounded_weight(weight: Tensor, scales: Tensor, limit: int) -> Tensor:
    per_channel = scales.reshape(-1, *[1] * (weight.dim() - 1))
    integers = (weight.detach() / per_channel).round().clamp(-limit, limit)
    return _straight_through(weight, integers * per_channel)


def _straight_through(value: Tensor, rounded: Tensor) -> Tensor:
    return value + (rounded - value).detach()


def _marker(operator: str, x: Tensor, **attributes: str | int) -> Tensor:
    """Return a node that the exporter writes unchanged and `targets.dialects.write` replaces."""
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{operator}", (x,), {**attributes}, dtype=x.dtype, shape=x.shape, version=1
    )
