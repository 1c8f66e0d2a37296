"""Run images through any session: the same reading, decoding and preprocessing in every place."""

from __future__ import annotations

from typing import Callable, Optional, Protocol

import numpy as np
from numpy.typing import NDArray

from targets.device.image_files import ImageError, decode
from targets.device.preprocess import Preprocessing, preprocess

# Images held decoded at a time: bounds the memory, however many there are.
BATCH = 32


class Session(Protocol):
    """Whatever answers: a model opened here, or one behind a container's port."""

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [N, C] of preprocessed images [N, 3, H, W]."""


class Images(Protocol):
    """A shard, or any other sequence of encoded images."""

    def __len__(self) -> int: ...

    def encoded(self, index: int) -> bytes:
        """The original file's bytes of one image."""


class MeasureError(RuntimeError):
    """The session answered something else than one row of logits per image."""


def measure(
    images: Images,
    session: Session,
    *,
    preprocessing: Preprocessing,
    classes: int,
    batch: int = BATCH,
    advance: Optional[Callable[[int], None]] = None,
) -> NDArray[np.float32]:
    """The session's logits [N, C] of the images, in their order; `advance` hears of every finished batch.

    Raises `ImageError` for an image that cannot be decoded here, and `MeasureError`.
    """
    logits = np.empty((len(images), classes), np.float32)
    for start in range(0, len(images), batch):
        stop = min(start + batch, len(images))
        inputs = np.stack([_input(images, index, preprocessing) for index in range(start, stop)])  # [B, 3, H, W]
        answer = session.infer(inputs)
        if answer.shape != (stop - start, classes):
            raise MeasureError(
                f"asked about {stop - start} images of {classes} classes, the model answered an array of "
                f"shape {list(answer.shape)}."
            )
        logits[start:stop] = answer
        if advance is not None:
            advance(stop - start)
    return logits


def _input(images: Images, index: int, preprocessing: Preprocessing) -> NDArray[np.float32]:
    try:
        return preprocess(decode(images.encoded(index), shorter_side=preprocessing.shorter_side), preprocessing)
    except ImageError as error:
        raise ImageError(f"image {index} cannot be used: {error}") from None
