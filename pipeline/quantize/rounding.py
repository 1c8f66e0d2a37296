"""Values on an integer grid, with the straight-through gradient.

`torch.fake_quantize_per_tensor_affine` is bit-identical. On a CPU it handles one value at a time and takes
about ten times as long, a quarter of a step of quantization-aware training; here vectorized operations run one after
another on parts that stay in the cache.
"""

from typing import Any

import torch
from torch import Tensor

from targets.dialects.grids import Grid

PART = 2**18
"""Values: 1 MiB, so that they are still in the cache for the next operation."""


def fake_quantize(x: Tensor, grid: Grid) -> Tensor:
    """Return x float32 [...] on `grid`, as floats; a gradient passes unchanged where x is not clipped."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return round_straight_through(x, grid)
    straight: Tensor = _StraightThrough.apply(x, grid)  # type: ignore[no-untyped-call]
    return straight


def round_straight_through(x: Tensor, grid: Grid) -> Tensor:
    """Return x float32 [...] on `grid`, as floats, without a gradient; on a CPU NaN stays NaN."""
    x = x.detach()
    if x.device.type != "cpu":
        return torch.fake_quantize_per_tensor_affine(x, grid.scale, grid.zero_point, grid.low, grid.high)
    low, high = float(grid.low - grid.zero_point), float(grid.high - grid.zero_point)
    # PyTorch multiplies by the reciprocal in float32, and this must match.
    inverse = float(1 / torch.tensor(grid.scale))
    values, layout = in_memory_order(x)
    results = torch.empty_like(values)
    for some, result in zip(torch.split(values, PART), torch.split(results, PART), strict=True):
        torch.mul(some, inverse, out=result).round_().clamp_(low, high).mul_(grid.scale)
    return results.reshape(x.shape) if layout is None else results.view(layout).permute(0, 3, 1, 2)


def in_memory_order(x: Tensor) -> tuple[Tensor, torch.Size | None]:
    """Return all values [N], and the shape [B, H, W, C] for channels-last; copy only for unusual layouts."""
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        permuted = x.permute(0, 2, 3, 1)
        return permuted.reshape(-1), permuted.shape
    return x.reshape(-1), None


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid) -> Tensor:
        ctx.save_for_backward(x)
        ctx.grid = grid
        return round_straight_through(x, grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,), grid = ctx.saved_tensors, ctx.grid
        # A value rounded to an end of the grid is not clipped: half a step is inside.
        low, high = (grid.low - grid.zero_point - 0.5) * grid.scale, (grid.high - grid.zero_point + 0.5) * grid.scale
        return torch.ops.aten.hardtanh_backward(gradient, x, low, high), None
