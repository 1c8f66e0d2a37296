"""Batches in parts: all images, in their order, once; and training by parts is training by the whole."""

import copy

import pytest
import torch
from tiny_networks import OPTION_A, network_of

from pipeline.training.microbatches import micro_batch_size, micro_batches


@pytest.mark.parametrize(
    ("size", "expected"),
    [((32, 32), 784), ((224, 224), 16), ((256, 256), 12), ((448, 448), 4), ((2000, 3000), 2)],
)
def test_a_part_has_as_many_images_as_fit(size: tuple[int, int], expected: int) -> None:
    assert micro_batch_size(size) == expected


def test_parts_differ_by_one_image_at_most_and_are_the_batch() -> None:
    images, labels = torch.arange(37 * 3 * 4, dtype=torch.float32).view(37, 3, 2, 2), torch.arange(37)
    images = images.expand(37, 3, 2, 2).repeat_interleave(112, 2).repeat_interleave(112, 3)
    parts = micro_batches(images, labels)
    assert [len(part) for part, _ in parts] == [13, 12, 12]
    assert torch.equal(torch.cat([part for part, _ in parts]), images)
    assert torch.equal(torch.cat([part for _, part in parts]), labels)


def test_a_batch_of_small_images_is_one_part() -> None:
    images = torch.zeros(128, 3, 32, 32)
    ((whole,),) = micro_batches(images)
    assert whole.data_ptr() == images.data_ptr()
    assert len(whole) == 128


def test_gradients_of_parts_add_up_to_those_of_the_batch() -> None:
    """Batch normalization in evaluation mode, where an image does not depend on its neighbours."""
    network = network_of(OPTION_A).eval().double()
    images = torch.randn(6, *OPTION_A.input_shape, dtype=torch.float64)
    parts = copy.deepcopy(network)
    network(images).square().mean().backward()
    for part in torch.split(images, 2):
        (parts(part).square().mean() * (len(part) / len(images))).backward()
    for whole, summed in zip(network.parameters(), parts.parameters(), strict=True):
        if whole.grad is not None:
            assert summed.grad is not None
            torch.testing.assert_close(whole.grad, summed.grad)
