"""The clipping range is the one that loses least, whatever order the values came in."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.quantize.ranges import BINS, Histogram

SIGNED_STEPS, UNSIGNED_STEPS = 127, 255


def values(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(20_000, generator=generator)
    match kind:
        case "normal":
            return normal
        case "after a ReLU":
            return normal.relu()
        case "uniform":
            return torch.rand(20_000, generator=generator)
        case _:
            return normal.sign() * normal.abs() ** 3


def histogram_of(*batches: Tensor) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.observe(batch)
    return histogram


def error(x: Tensor, amax: float, steps: int) -> float:
    """Mean squared error of rounding to ONNX Runtime's grid, from the values themselves."""
    scale = amax / steps
    low = 0 if steps == UNSIGNED_STEPS else -steps
    return float(((x / scale).round().clamp(low, steps) * scale - x).double().square().mean())


@pytest.mark.parametrize("kind", ["normal", "after a ReLU", "uniform", "heavy tails"])
def test_no_other_range_loses_noticeably_less(kind: str) -> None:
    x = values(kind)
    found = histogram_of(x).best_range(post_relu=False)
    steps = SIGNED_STEPS if found.signed else UNSIGNED_STEPS
    best = min(error(x, amax, steps) for amax in np.linspace(0.05, 1.2, 200) * float(x.abs().max()))
    assert error(x, found.amax, steps) <= 1.1 * best


def test_rare_large_values_are_clipped_and_evenly_spread_ones_are_not() -> None:
    heavy, uniform = values("heavy tails"), values("uniform")
    assert histogram_of(heavy).best_range(post_relu=False).amax < 0.95 * float(heavy.abs().max())
    assert histogram_of(uniform).best_range(post_relu=True).amax == pytest.approx(float(uniform.max()), rel=0.01)


def test_the_finer_grid_of_positive_values_is_taken_into_account() -> None:
    positive = values("heavy tails").abs()
    negative = positive * torch.tensor([1.0, -1.0]).repeat(len(positive) // 2)
    unsigned, signed = (histogram_of(x).best_range(post_relu=False) for x in (positive, negative))
    assert (unsigned.signed, signed.signed) == (False, True)
    assert unsigned.amax > signed.amax


def test_the_order_of_batches_does_not_matter() -> None:
    parts = [values("normal") * factor for factor in (0.01, 0.5, 2.0, 33.0)]
    up, down = histogram_of(*parts), histogram_of(*reversed(parts))
    assert up.largest == down.largest
    assert up.counts.sum() == down.counts.sum() == sum(len(part) for part in parts)
    # The bins differ by less than a factor of two, so the ranges differ by a candidate at most.
    ranges = [histogram.best_range(post_relu=False).amax for histogram in (up, down)]
    assert ranges[0] == pytest.approx(ranges[1], rel=0.05)


def test_the_bins_double_their_width_and_lose_no_count() -> None:
    histogram = histogram_of(torch.tensor([1.0, 0.3, 0.0]))
    assert (histogram.limit, histogram.counts.sum()) == (1.0, 3)
    histogram.observe(torch.tensor([-5.0, 0.3]))
    assert (histogram.limit, histogram.counts.sum()) == (8.0, 5)
    # The same value counted before and after the bins grew lies in one bin.
    assert histogram.counts[int(0.3 / 8 * BINS)] == 2


def test_a_first_batch_of_zeros_says_nothing() -> None:
    zeros, later = torch.zeros(10), values("normal")
    assert histogram_of(zeros, later).best_range(post_relu=False) == histogram_of(later).best_range(post_relu=False)
    nothing = histogram_of(zeros).best_range(post_relu=True)
    assert (nothing.amax, nothing.signed, nothing.post_relu) == (1.0, False, True)


def test_the_range_is_a_number_that_float32_holds() -> None:
    amax = histogram_of(values("normal")).best_range(post_relu=False).amax
    assert amax == float(np.float32(amax))
    assert type(amax) is float


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_are_remembered(bad: float) -> None:
    histogram = histogram_of(values("normal"))
    assert histogram.is_finite
    histogram.observe(torch.tensor([1.0, bad]))
    assert not histogram.is_finite
    assert math.isfinite(histogram.largest)


def test_shapes_do_not_matter() -> None:
    x = values("normal")
    as_images = histogram_of(x.reshape(2, 100, 10, 10))
    assert as_images.best_range(post_relu=False) == histogram_of(x).best_range(post_relu=False)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (4, 1, 6, 6), (2, 8, 1, 1)])
def test_the_layout_in_memory_does_not_matter(shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    plain, last = Histogram(), Histogram()
    for scale in (1.0, 3.0):
        plain.observe(values * scale)
        last.observe((values * scale).to(memory_format=torch.channels_last))
    assert (plain.counts == last.counts).all()
    assert plain.best_range(post_relu=False) == last.best_range(post_relu=False)


@pytest.mark.parametrize("shape", [(24, 24, 70, 75), (24, 3, 224, 224), (24, 105, 30, 30)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_of_large_images_a_part_is_counted_that_sees_all_channels_alike(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    # Each channel has a magnitude of its own, so that one seen more often than another would show.
    magnitude = torch.linspace(0.1, 1.0, shape[1]).reshape(1, -1, 1, 1)
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(2)).abs() * magnitude).to(memory_format=layout)
    some, every = histogram_of(x), histogram_of(x.reshape(-1))
    assert some.largest == every.largest
    assert some.counts.sum() == pytest.approx(x.numel(), rel=0.001)
    assert np.abs(some.counts.cumsum() - every.counts.cumsum()).max() < 0.01 * x.numel()
    found, wanted = (each.best_range(post_relu=True).amax for each in (some, every))
    assert error(x, found, UNSIGNED_STEPS) == pytest.approx(error(x, wanted, UNSIGNED_STEPS), rel=0.1)
