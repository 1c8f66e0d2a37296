"""Decoding and normalizing, on files written here in every mode that cameras and scanners leave behind."""

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from targets.device.image_files import MAX_PIXELS, ImageError, check_decodable, decode
from targets.device.preprocess import Preprocessing, crop_pixels, normalize, preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = Preprocessing(resize=None, crop=None, mean=MEAN, std=STD)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels_of(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode(data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that states its size and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\1\0IDAT"
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    pixels = noise(9, 13)
    assert (pixels_of(file_of(Image.fromarray(pixels), kind)) == pixels).all()


def test_jpeg_webp_and_gif_are_decoded() -> None:
    image = Image.new("RGB", (20, 10), (200, 100, 50))
    for kind in ("JPEG", "WEBP", "GIF"):
        pixels = pixels_of(file_of(image, kind))
        assert pixels.shape == (10, 20, 3)
        assert np.abs(pixels.astype(int) - [200, 100, 50]).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation: int) -> None:
    upright = np.zeros((6, 10, 3), dtype=np.uint8)
    upright[0, :, 0] = 255  # a red top edge
    upright[:, 0, 1] = 255  # a green left edge
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif.tobytes())
    assert (pixels_of(data) == upright).all()


def test_unreadable_exif_means_no_rotation() -> None:
    pixels = noise(4, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow says that the block is corrupt
        assert (pixels_of(file_of(Image.fromarray(pixels), "PNG", exif=b"Exif\0\0MM\0*\0\0\xff\xff")) == pixels).all()


def test_grayscale_fills_three_equal_channels() -> None:
    gray = noise(5, 7)[..., 0]
    assert (pixels_of(file_of(Image.fromarray(gray))) == gray[..., None]).all()


def test_one_bit_images_become_black_and_white() -> None:
    bits = Image.fromarray(noise(5, 7)[..., 0]).convert("1")
    assert set(np.unique(pixels_of(file_of(bits)))) == {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grayscale_is_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65407, 65535]], dtype=np.uint16)
    pixels = pixels_of(file_of(Image.fromarray(values), kind))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255, 255]
    assert (pixels == pixels[..., :1]).all()


def test_big_endian_16_bit_tiff() -> None:
    values = np.array([[0, 32768, 65535]], dtype=">u2")
    data = file_of(Image.frombytes("I;16B", (3, 1), values.tobytes()), "TIFF")
    assert pixels_of(data)[0, :, 0].tolist() == [0, 128, 255]


def test_32_bit_pixels_are_refused_for_want_of_a_range() -> None:
    for mode in ("I", "F"):
        with pytest.raises(ImageError, match=f"32 bits per pixel .mode {mode}."):
            decode(file_of(Image.new(mode, (4, 4)), "TIFF"))


def test_cmyk_jpeg() -> None:
    pixels = pixels_of(file_of(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 4


def test_palette_with_and_without_transparency() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 150, 100])
    palette.putpixel((1, 0), 1)
    assert pixels_of(file_of(palette)).tolist() == [[[10, 20, 30], [200, 150, 100]]]
    assert pixels_of(file_of(palette, transparency=1)).tolist() == [[[10, 20, 30], [0, 0, 0]]]


def test_transparency_is_laid_over_black() -> None:
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 51, 255)):
        image.putpixel((x, 0), (255, 100, 50, alpha))
    assert pixels_of(file_of(image)).tolist() == [[[0, 0, 0], [51, 20, 10], [255, 100, 50]]]
    assert pixels_of(file_of(Image.new("LA", (1, 1), (200, 255)))).tolist() == [[[200, 200, 200]]]
    keyed = file_of(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3))
    assert pixels_of(keyed).tolist() == [[[0, 0, 0]]]


def test_of_an_animation_the_first_frame_counts() -> None:
    first, second = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    data = file_of(first, "GIF", save_all=True, append_images=[second])
    assert pixels_of(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty .0 bytes."),
        (b"hello, I am no image at all", "cut short in its header, or not an image of a known format"),
        (file_of(Image.fromarray(noise(40, 40)))[:20], "(cut short|damaged)"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (file_of(Image.fromarray(noise(40, 40)))[:-200], "PNG file is (truncated|damaged)"),
        (file_of(Image.fromarray(noise(40, 40)), "JPEG")[:-200], "JPEG file is truncated"),
        (png_header(30_000, 30_000), "too many pixels"),
        (png_header(2**31 - 1, 2**31 - 1), "too many pixels"),
        (png_header(2**14, MAX_PIXELS // 2**14 + 1), "too many pixels .16384 x 4097; at most 67108864."),
        (png_header(1, 2**22 + 1), "too many .* .1 x 4194305; at most 67108864, where a row counts as 16 or more."),
        (png_header(0, 5), "(no pixels|damaged|known format)"),
    ],
)
def test_bad_files_name_their_fault(data: bytes, reason: str) -> None:
    for act in (decode, check_decodable):
        with pytest.raises(ImageError, match=reason):
            act(data)


@pytest.mark.filterwarnings("ignore")  # Pillow warns about much of what is damaged here
def test_damaged_files_never_raise_anything_else() -> None:
    image, chance = Image.fromarray(noise(20, 24)), random.Random(7)
    files = [file_of(image, kind) for kind in ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP")]
    files += [file_of(image.convert("CMYK"), "JPEG"), file_of(image, "JPEG", progressive=True)]
    files += [file_of(image.convert(mode)) for mode in ("L", "P", "LA", "RGBA", "1")]
    refused = 0
    for _ in range(3000):
        data = bytearray(chance.choice(files))
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        else:
            for _ in range(chance.choice((1, 2, 5, 20))):
                data[chance.randrange(min(len(data), chance.choice((40, len(data)))))] = chance.randrange(256)
        reason = why_not(decode, bytes(data))
        assert why_not(check_decodable, bytes(data)) == reason
        refused += reason is not None
    assert 500 < refused < 3000


def why_not(act: Callable[[bytes], Image.Image | None], data: bytes) -> str | None:
    """The reason why an image is refused, or None."""
    try:
        image = act(data)
    except ImageError as error:
        return str(error)
    assert image is None or image.mode == "RGB"
    return None


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
        ({"crop": [224]}, "crop = .224,. has not 2 values"),
        ({"crop": [0, 4]}, "crop"),
        ({"std": [1, 0, 1]}, "std"),
        ({"mean": [1, float("nan"), 1]}, "not all are finite"),
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
