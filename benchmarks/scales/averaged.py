"""Ranges that follow training: a moving average of each batch's largest magnitude (Jacob et al. 2018, section 3.1)."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.artifacts import ActivationRange, Dialect
from pipeline.quantize.rounding import fake_quantize
from targets.dialects.grids import activation_grid

MOMENTUM = 0.01
"""Weight of the newest batch."""


class AveragedRange(nn.Module):
    """A point's range as a buffer that is updated with every training batch."""

    largest: Tensor

    def __init__(self, activation: ActivationRange) -> None:
        super().__init__()
        self._activation = activation
        self.register_buffer("largest", torch.tensor(activation.amax))

    @property
    def amax(self) -> float:
        return float(self.largest)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize x [B, ...] to the grid, after updating the range with this batch."""
        self.largest.lerp_(x.detach().abs().amax(), MOMENTUM)
        grid = activation_grid(replace(self._activation, amax=self.amax), Dialect.ONNXRUNTIME)
        return fake_quantize(x, grid)
