"""Resizing, cropping and normalizing, against torchvision's arithmetic worked out by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from targets.device.model.image_files import ImageError
from targets.device.model.preprocess import Preprocessing, crop_pixels, normalize, preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = Preprocessing(resize=None, crop=None, mean=MEAN, std=STD)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_resize_and_crop_follow_torchvision() -> None:
    """Sizes and offsets of torchvision's Resize and CenterCrop, worked out by hand."""
    image = Image.fromarray(noise(101, 77))
    resized = np.asarray(image.resize((32, int(32 * 101 / 77)), Image.Resampling.BILINEAR))
    assert resized.shape == (41, 32, 3)
    got = crop_pixels(image, Preprocessing(resize=32, crop=(28, 28), mean=MEAN, std=STD))
    top, left = 6, 2  # round(6.5) to even, round(2.0)
    assert (got == resized[top : top + 28, left : left + 28]).all()


def test_an_image_of_the_right_size_is_not_touched() -> None:
    pixels = noise(32, 32)
    got = crop_pixels(Image.fromarray(pixels), Preprocessing(resize=32, crop=(32, 32), mean=MEAN, std=STD))
    assert (got == pixels).all()


def test_an_image_smaller_than_the_crop_is_padded_with_black() -> None:
    pixels = noise(3, 4) | 1
    got = crop_pixels(Image.fromarray(pixels), Preprocessing(resize=None, crop=(6, 7), mean=MEAN, std=STD))
    assert got.shape == (6, 7, 3)
    assert (got[1:4, 1:5] == pixels).all()
    assert np.count_nonzero(got) == pixels.size


@pytest.mark.parametrize("shape", [(1, 1), (3, 100), (4_000_000, 1)])
def test_what_lies_outside_an_image_takes_no_memory(shape: tuple[int, int]) -> None:
    """Padded as a whole, the last would be of 896 million pixels."""
    image = Image.new("RGB", shape[::-1], (9, 9, 9))
    got = crop_pixels(image, Preprocessing(resize=None, crop=(224, 224), mean=MEAN, std=STD))
    assert got.shape == (224, 224, 3)
    assert np.count_nonzero(got) == 3 * min(224, shape[0]) * min(224, shape[1])


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic"])
def test_interpolation_is_the_one_asked_for(name: str) -> None:
    image = Image.fromarray(noise(16, 16))
    got = crop_pixels(image, Preprocessing(resize=8, crop=None, mean=MEAN, std=STD, interpolation=name))
    assert (got == np.asarray(image.resize((8, 8), Image.Resampling[name.upper()]))).all()


def test_an_extreme_shape_is_refused_before_it_is_enlarged() -> None:
    with pytest.raises(ImageError, match=r"30000 x 1\) would be resized to 7680000 x 256"):
        crop_pixels(Image.new("RGB", (30_000, 1)), Preprocessing(resize=256, crop=(8, 8), mean=MEAN, std=STD))


def test_normalize_is_the_plain_formula_to_the_bit() -> None:
    pixels = noise(5, 6)[None]
    scaled = pixels.astype(np.float32) / np.float32(255)
    expected = (scaled - np.array(MEAN, dtype=np.float32)) / np.array(STD, dtype=np.float32)
    got = normalize(pixels, PLAIN)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert (got == expected.transpose(0, 3, 1, 2)).all()


def test_bgr_reorders_before_mean_and_std() -> None:
    pixels = noise(2, 3)[None]
    rgb = normalize(pixels, Preprocessing(resize=None, crop=None, mean=MEAN, std=STD))
    bgr = normalize(pixels, Preprocessing(resize=None, crop=None, mean=MEAN[::-1], std=STD[::-1], color="bgr"))
    assert (bgr == rgb[:, ::-1]).all()


def test_preprocess_is_one_row_of_the_batch() -> None:
    image = Image.fromarray(noise(40, 50))
    how = Preprocessing(resize=36, crop=(32, 30), mean=MEAN, std=STD)
    got = preprocess(image, how)
    assert got.shape == (3, 32, 30)
    assert (got == normalize(np.stack([crop_pixels(image, how)] * 2), how)[1]).all()


@pytest.mark.parametrize("how", [PLAIN, Preprocessing(resize=256, crop=(224, 192), mean=MEAN, std=STD, color="bgr")])
def test_preprocessing_survives_json(how: Preprocessing) -> None:
    import json

    assert Preprocessing.from_dict(json.loads(json.dumps(how.to_dict()))) == how


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"resize": 0}, "resize = 0"),
        ({"crop": [224]}, "crop = .224,. does not have 2 values"),
        ({"crop": [0, 4]}, "crop"),
        ({"std": [1, 0, 1]}, "std"),
        ({"mean": [1, float("nan"), 1]}, "not all values are finite"),
        ({"color": "gbr"}, "'gbr' is neither"),
        ({"interpolation": "lanczos"}, "'lanczos' is not one of"),
        ({"scale": 2}, "scale"),
        ({"resize": "256"}, "256"),
    ],
)
def test_impossible_preprocessing_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Preprocessing.from_dict({**PLAIN.to_dict(), **change})


def test_missing_values_are_named() -> None:
    raw = PLAIN.to_dict()
    del raw["mean"]
    with pytest.raises(ValueError, match="mean"):
        Preprocessing.from_dict(raw)
