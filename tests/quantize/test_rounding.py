"""The grid is PyTorch's own, value and gradient, whatever the layout in memory."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.quantize.rounding import PART, fake_quantize
from targets.dialects.grids import Grid

UNSIGNED = Grid(scale=0.0173, zero_point=0, low=0, high=255)
SIGNED = Grid(scale=0.031, zero_point=128, low=0, high=255)
TENSORRT = Grid(scale=0.0421, zero_point=0, low=-128, high=127)
LARGE = (3, 64, 56, 56)

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3),
    "every second": lambda x: x[:, :, ::2],
}


def images(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3


def of_torch(x: Tensor, grid: Grid) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(x, grid.scale, grid.zero_point, grid.low, grid.high)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grid", [UNSIGNED, SIGNED, TENSORRT])
def test_values_and_gradients_are_those_of_pytorch(grid: Grid, layout: str) -> None:
    found, wanted = (LAYOUTS[layout](images(LARGE)).detach().requires_grad_() for _ in range(2))
    assert found.numel() > PART
    ours, theirs = fake_quantize(found, grid), of_torch(wanted, grid)
    assert torch.equal(ours, theirs)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    torch.autograd.backward([(ours * weight).sum(), (theirs * weight).sum()])
    assert found.grad is not None
    assert wanted.grad is not None
    assert torch.equal(found.grad, wanted.grad)


@pytest.mark.parametrize("shape", [(), (7,), (4, 10), (0, 3, 8, 8)])
def test_any_shape_is_kept(shape: tuple[int, ...]) -> None:
    x = images(shape)
    assert torch.equal(fake_quantize(x, SIGNED), of_torch(x, SIGNED))


def test_what_is_clipped_passes_no_gradient_and_what_is_rounded_to_the_end_does() -> None:
    step = UNSIGNED.scale
    x = torch.tensor([-0.6, -0.4, 0.0, 255.4, 255.6]).mul(step).requires_grad_()
    torch.autograd.backward(fake_quantize(x, UNSIGNED).sum())
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_what_is_no_number_stays_none_so_that_training_sees_it() -> None:
    assert math.isnan(float(fake_quantize(torch.tensor(math.nan), SIGNED)))


def test_the_layout_in_memory_is_kept() -> None:
    x = LAYOUTS["channels last"](images(LARGE))
    assert fake_quantize(x, UNSIGNED).is_contiguous(memory_format=torch.channels_last)
