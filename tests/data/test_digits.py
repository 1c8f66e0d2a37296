"""The embedded digits are scikit-learn's, upscaled, and split the same way for ever."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.data.digits import open_digits
from pipeline.data.readers import open_dataset
from pipeline.errors import DataError
from targets.device.model.image_files import decode


def test_800_of_1797_are_the_gates_in_proportion() -> None:
    source = open_digits()
    assert (len(source.training), len(source.gate)) == (997, 800)
    share = np.bincount(source.gate.labels) / (np.bincount(source.gate.labels) + np.bincount(source.training.labels))
    assert np.abs(share - 800 / 1797).max() < 0.003
    assert not set(source.training.names) & set(source.gate.names)


def test_they_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    known = load_digits()
    source = open_digits()
    for images in (source.training, source.gate):
        positions = [int(name.removeprefix("digits[").removesuffix("]")) for name in images.names]
        assert (images.labels == known.target[positions]).all()
    index = int(source.gate.names[0].removeprefix("digits[").removesuffix("]"))
    image = decode(source.gate.encoded(0))
    assert image.size == (32, 32)
    back = np.asarray(image.resize((8, 8), Image.Resampling.BOX))[..., 0] * (16 / 255)
    # Interpolation smooths: the shape agrees, not every value.
    assert np.corrcoef(back.ravel(), known.images[index].ravel())[0, 1] > 0.97


def test_the_gate_is_the_same_whatever_the_seed() -> None:
    first, second = open_dataset("digits", seed=1), open_dataset("digits", seed=2)
    assert first.gate.fingerprint == second.gate.fingerprint
    assert first.selection.fingerprint != second.selection.fingerprint
    assert (len(first.training), len(first.selection)) == (897, 100)


def test_no_image_is_in_two_parts() -> None:
    dataset = open_dataset("digits")
    assert dataset.notes == ()
    parts = [set(part.digests) for part in (dataset.training, dataset.selection, dataset.gate)]
    assert len(set.union(*parts)) == 1797


def test_digits_are_not_mirrored() -> None:
    dataset = open_dataset("digits")
    assert not dataset.training.mirrors
    assert not dataset.training.subset([0, 1]).mirrors


def test_every_digit_is_a_png_of_gray_in_rgb() -> None:
    data = open_digits().training.encoded(3)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))
        pixels = np.asarray(image)
    assert (pixels == pixels[..., :1]).all()
    assert pixels.max() > 200
    assert pixels.min() == 0


def test_without_scikit_learn_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        open_digits()
