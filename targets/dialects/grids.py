"""The integer grids of activations and weights. This is the only place where a range becomes scale and zero point.

A range is symmetric and says whether the tensor holds negative values; the grid depends on the runtime:

                    not negative             signed
    onnxruntime     0..255, zero point 0     0..255, zero point 128
    tensorrt        0..127, zero point 0     -128..127, zero point 0

So one set of ranges serves both; TensorRT's grid has half the resolution where there are no negative values.
"""

from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import ActivationRange, Dialect


@dataclass(frozen=True, kw_only=True)
class Grid:
    """value = scale * (integer - zero_point), the integer clipped to low..high; scales are float32 numbers."""

    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def dtype(self) -> type[np.uint8] | type[np.int8]:
        return np.int8 if self.low < 0 or self.high == 127 else np.uint8


def activation_grid(activation: ActivationRange, dialect: Dialect) -> Grid:
    """Return the grid of an activation in a dialect; raise `ValueError` for the float dialect."""
    match dialect:
        case Dialect.ONNXRUNTIME if activation.signed:
            return Grid(scale=_scale(activation.amax, 127), zero_point=128, low=0, high=255)
        case Dialect.ONNXRUNTIME:
            return Grid(scale=_scale(activation.amax, 255), zero_point=0, low=0, high=255)
        case Dialect.TENSORRT:
            return Grid(scale=_scale(activation.amax, 127), zero_point=0, low=-128, high=127)
        case Dialect.FLOAT:
            raise ValueError("the float dialect has no integer grid")
        case _:
            assert_never(dialect)


def weight_limit(bits: Literal[7, 8]) -> int:
    """Return the largest magnitude of an integer weight, 127 or 63; the range is symmetric."""
    return 127 if bits == 8 else 63


def integer_weights(weight: NDArray[np.float32], scales: NDArray[np.float32], limit: int) -> NDArray[np.int8]:
    """Quantize weights [C, ...] with one scale per output channel [C], rounding half to even."""
    per_channel = scales.reshape(-1, *[1] * (weight.ndim - 1))
    integers: NDArray[np.int8] = np.clip(np.rint(weight / per_channel), -limit, limit).astype(np.int8)
    return integers


def integer_bias(bias: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.int32]:
    """Quantize biases [C] to the accumulator's grid: scales = input scale * weight scales [C]."""
    limit = 2.0**31 - 1
    integers: NDArray[np.int32] = np.clip(np.rint(bias / scales).astype(np.float64), -limit, limit).astype(np.int32)
    return integers


def _scale(amax: float, steps: int) -> float:
    return float(np.float32(amax) / np.float32(steps))
