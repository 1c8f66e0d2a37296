"""Split batches into parts that fit into the caches and the memory of a CPU.

The memory of a forward pass grows with its pixels. At 224 x 224 a batch of 128 images does not fit into any cache, and
its activations fit into few machines; in parts of 16 images each image takes a third of the time. So a batch goes
through the network in parts. At 32 x 32 the whole batch is one part.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

PIXELS = 16 * 224 * 224
"""Pixels of one part."""
LEAST = 2
"""Images of one part: batch normalization needs two if its input is a vector."""


def micro_batches(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Split tensors of one batch, the first of which are images [B, 3, H, W], into parts of nearly equal size."""
    images = tensors[0]
    size = micro_batch_size(images.shape[-2:])
    count = max(1, math.ceil(len(images) / size))
    return list(zip(*(torch.tensor_split(tensor, count) for tensor in tensors), strict=True))


def micro_batch_size(image_size: Sequence[int]) -> int:
    """Return the images of one part, for images of `image_size` (height, width)."""
    return max(LEAST, PIXELS // math.prod(image_size))
