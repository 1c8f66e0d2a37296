"""The embedded dataset: scikit-learn's 1,797 real handwritten digits, read without importing scikit-learn.

Alpaydin, E. & Kaynak, C. (1998): Optical Recognition of Handwritten Digits. UCI Machine Learning Repository.
"""

import gzip
import hashlib
import importlib.util
import io
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.images import ImageSet, Kind, Source
from pipeline.data.sampling import split_stratified
from pipeline.errors import DataError

CLASSES = tuple("0123456789")
GATE_IMAGES = 800
GATE_SEED = 1998
"""The gate's images are the same in every build, whatever its seed."""
SIDE = 32
LARGEST = 16
"""The pixel values are counts of 0..16."""


def open_digits() -> Source:
    pixels, labels = _read(_file())
    rest, gate = split_stratified(labels, count=GATE_IMAGES, seed=GATE_SEED)
    images = ImageSet(
        read=partial(_png_of, pixels),
        digests=[hashlib.sha256(f"{SIDE}x{SIDE}".encode() + image.tobytes()).hexdigest() for image in pixels],
        names=[f"digits[{index}]" for index in range(len(labels))],
        labels=labels,
        kind=Kind(mirrors=False),
    )
    return Source(name="digits", classes=CLASSES, training=images.subset(rest), gate=images.subset(gate))


def _png_of(pixels: NDArray[np.uint8], index: int) -> bytes:
    return _png(pixels[index])


def _file() -> Path:
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError(
            "the embedded digits are part of scikit-learn, which is not installed: pip install scikit-learn."
        )
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def _read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels [N, 8, 8] in 0..16 and labels [N]."""
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.array([line.split(",") for line in file], dtype=np.float64)
        return table[:, :-1].astype(np.uint8).reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"the embedded digits in {path} cannot be read: {error}. Reinstall scikit-learn.") from None


def _png(digit: NDArray[np.uint8]) -> bytes:
    """Return one digit [8, 8] in 0..16, white on black, as a 32 x 32 RGB image."""
    gray = np.rint(digit * (255 / LARGEST)).astype(np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(gray).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    image.convert("RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()
