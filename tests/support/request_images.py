"""Images as a request has them."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def photo(kind: str, seed: int) -> bytes:
    """A file of another size than the network's."""
    values = np.random.default_rng(seed).integers(0, 256, (30, 20, 3)).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(values).save(written, kind)
    return written.getvalue()


def as_objects(elements: list[bytes]) -> NDArray[np.object_]:
    made = np.empty(len(elements), object)
    made[:] = elements
    return made
