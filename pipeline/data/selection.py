"""Several models on the same selection images, each image decoded once."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.decoding import decoded, stacked
from pipeline.data.images import ImageSet
from pipeline.progress import Progress
from targets.device.model.preprocess import Preprocessing, normalize
from targets.device.model.session import Inference

BATCH = 32


def at_most(images: ImageSet, limit: int) -> ImageSet:
    """`images`, or `limit` of them evenly spread."""
    return images if len(images) <= limit else images.subset(spread(len(images), limit))


def spread(length: int, count: int) -> list[int]:
    """`count` indices below `length`, evenly spread, each once."""
    return sorted({int(index) for index in np.linspace(0, length - 1, min(count, length))})


def logits_of_each(
    sessions: Sequence[Inference], images: ImageSet, preprocessing: Preprocessing, progress: Progress
) -> list[NDArray[np.float32]]:
    """Logits [N, C] of every session, in the images' order; raises `DataError` for an image that cannot be used."""
    parts: list[list[NDArray[np.float32]]] = [[] for _ in sessions]
    with progress.task("compare precisions", len(images)) as advance:
        for pixels in _batches(images, preprocessing):
            inputs = normalize(pixels, preprocessing)
            for part, session in zip(parts, sessions, strict=True):
                part.append(session.infer(inputs))
            advance(len(pixels))
    return [np.concatenate(part) for part in parts]


def pixels_of(images: ImageSet, indices: Sequence[int], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """uint8 [N, H, W, 3] as `normalize` takes them."""
    pixels = [decoded(images, index, preprocessing) for index in indices]
    return stacked(images, indices, pixels, shape=pixels[0].shape)


def count_right(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> int:
    """Images whose largest logit is their label's."""
    return int(np.count_nonzero(logits.argmax(axis=1) == labels))


def _batches(images: ImageSet, preprocessing: Preprocessing) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images), BATCH):
        yield pixels_of(images, range(start, min(start + BATCH, len(images))), preprocessing)
