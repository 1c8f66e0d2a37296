"""Trained scales: learned step size quantization (LSQ, Esser et al. 2020, https://arxiv.org/abs/1902.08153).

A value v = x / s, rounded and clipped to Qn..Qp, changes with its step s by

    round(v) - v  inside the range,  Qn or Qp  outside it,

and that gradient is multiplied by 1 / sqrt(N Qp), N the count of values that share the step, so that steps and
weights change by comparable relative amounts.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.artifacts import ActivationRange, Dialect
from pipeline.quantize.fake_quant import QuantizedConv2d, QuantizedLinear
from pipeline.quantize.rounding import round_straight_through
from targets.dialects.grids import Grid, activation_grid


class LearnedRange(nn.Module):
    """A point's step as a parameter, on ONNX Runtime's grid."""

    def __init__(self, activation: ActivationRange) -> None:
        super().__init__()
        grid = activation_grid(activation, Dialect.ONNXRUNTIME)
        self._low, self._high = grid.low - grid.zero_point, 255 - grid.zero_point
        self._steps = activation.amax / grid.scale
        self.scale = nn.Parameter(torch.tensor(grid.scale))

    @property
    def amax(self) -> float:
        """The absolute value of the step, which training may have made negative."""
        return abs(float(self.scale.detach())) * self._steps

    def forward(self, x: Tensor) -> Tensor:
        """Quantize x [B, ...] to the grid."""
        weight = float(x[0].numel() * self._high) ** -0.5
        learned: Tensor = _Rounded.apply(x, self.scale, self._low, self._high, weight)  # type: ignore[no-untyped-call]
        return learned


def learn_weights(layer: QuantizedConv2d | QuantizedLinear) -> None:
    """Make the layer's scales [C] a parameter with the current values."""
    scales = layer.quantizer.current_scales(layer.weight, layer.bias)
    layer.register_parameter("weight_scales", nn.Parameter(scales.clone()))
    layer.quantizer.scales = layer.get_parameter("weight_scales")
    layer.quantizer.rounding = _rounded_weight


def _rounded_weight(weight: Tensor, scales: Tensor, limit: int) -> Tensor:
    shape = (-1, *[1] * (weight.dim() - 1))
    share = float(weight[0].numel() * limit) ** -0.5
    of_scales = (scales * share + (scales - scales * share).detach()).reshape(shape)
    integers = (weight / of_scales).clamp(-limit, limit)
    round_straight_through: Tensor = (integers + (integers.round() - integers).detach()) * of_scales
    return round_straight_through


class _Rounded(torch.autograd.Function):
    """One step for a tensor; the forward arithmetic is the same as that of every point."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int, weight: float) -> Tensor:
        step = abs(float(scale.detach()))
        result = round_straight_through(x, Grid(scale=step, zero_point=-low, low=0, high=high - low))
        ctx.save_for_backward(x, result)
        ctx.step, ctx.low, ctx.high, ctx.weight, ctx.sign = step, low, high, weight, 1.0 if scale >= 0 else -1.0
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, result = ctx.saved_tensors
        inside = (x >= ctx.low * ctx.step) & (x <= ctx.high * ctx.step)
        passed = gradient * inside
        # Inside the range (result - x) / step, outside it the clipped integer.
        of_step = (torch.sum(gradient * result) - torch.sum(passed * x)) / ctx.step
        return passed, of_step * ctx.weight * ctx.sign, None, None, None
