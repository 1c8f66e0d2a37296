"""Batches cut into parts that the caches and the memory of a CPU stand.

What a pass over a network takes grows with the pixels that are in it. At 224 x 224 a batch of 128 images does not fit
into any cache, and its activations into few machines; of 16 images each takes a third of the time. So a batch goes
through the network in parts. At 32 x 32 all of it is one part.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

PIXELS = 16 * 224 * 224
"""Of one part."""
LEAST = 2
"""Images: batch normalization needs two where its input is a vector."""


def micro_batches(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Equal parts of tensors of one batch, the first of which are images [B, 3, H, W]; sizes differ by one at most."""
    images = tensors[0]
    size = micro_batch_size(images.shape[-2:])
    count = max(1, math.ceil(len(images) / size))
    return list(zip(*(torch.tensor_split(tensor, count) for tensor in tensors), strict=True))


def micro_batch_size(image_size: Sequence[int]) -> int:
    """Images of one part, where an image has `image_size` (height, width)."""
    return max(LEAST, PIXELS // math.prod(image_size))
