"""Calibration: a histogram of a tensor's magnitudes, and the clipping range with the least rounding error."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artifacts import ActivationRange
from pipeline.quantize.rounding import in_memory_order

BINS = 2048
CANDIDATES = 128
MAX_VALUES = 2**14
"""Values counted per image; the maximum is taken over all values."""


class Histogram:
    """Counts of |x| over all observed batches; the bin width doubles whenever a larger value occurs."""

    def __init__(self) -> None:
        self.counts: NDArray[np.float64] = np.zeros(BINS)
        self.limit = 0.0
        self.largest = 0.0
        self.has_negative = False
        self.is_finite = True

    def observe(self, x: Tensor) -> None:
        """Add one batch of any shape."""
        values, _ = in_memory_order(x)
        low, high = (float(bound) for bound in torch.aminmax(values))
        largest = max(-low, high)
        if not np.isfinite(largest):
            self.is_finite = False
            return
        self.largest = max(self.largest, largest)
        self.has_negative = self.has_negative or low < 0
        if self.limit == 0.0:
            self.limit = largest
        while self.limit and largest > self.limit:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2)])
            self.limit *= 2
        if self.limit:
            stride = _stride(x)
            counted = values[::stride].abs().float()
            self.counts += stride * torch.histc(counted, BINS, 0.0, self.limit).double().numpy()

    def best_range(self, *, post_relu: bool) -> ActivationRange:
        """Return the clipping range of least mean squared error on ONNX Runtime's grid; 1.0 for a tensor of zeros."""
        steps = 127 if self.has_negative else 255
        amax = self._least_error(steps) if self.largest > 0 else 1.0
        return ActivationRange(amax=float(np.float32(amax)), signed=self.has_negative, post_relu=post_relu)

    def percentile_range(self, share: float, *, post_relu: bool) -> ActivationRange:
        """Return the range with `share` of all magnitudes, including zeros, to the width of a bin."""
        reached = int(np.searchsorted(np.cumsum(self.counts), share * self.counts.sum()))
        amax = min(self.largest, (reached + 1) * self.limit / BINS) if self.largest > 0 else 1.0
        return ActivationRange(amax=float(np.float32(amax)), signed=self.has_negative, post_relu=post_relu)

    def _least_error(self, steps: int) -> float:
        width = self.limit / BINS
        centers = (np.arange(BINS, dtype=np.float64) + 0.5) * width
        # Exact zeros are in the first bin and are represented exactly at any scale.
        candidates = np.linspace(self.largest / CANDIDATES, self.largest, CANDIDATES).tolist()
        return float(min(candidates, key=lambda amax: self._error(centers, amax, steps)))

    def _error(self, centers: NDArray[np.float64], amax: float, steps: int) -> float:
        scale = amax / steps
        rounded = np.minimum(np.rint(centers / scale), steps) * scale
        return float(self.counts[1:] @ (centers - rounded)[1:] ** 2)


def _stride(x: Tensor) -> int:
    """Return the step between counted values, so that all channels and columns [..., C, ..., W] count equally."""
    stride = max(1, x.numel() // max(1, len(x)) // MAX_VALUES) if x.dim() > 1 else 1
    while stride > 1 and any(math.gcd(stride, size) > 1 for size in (x.shape[1], x.shape[-1])):
        stride += 1
    return stride
