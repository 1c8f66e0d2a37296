"""Decoding, on files written here in every mode that cameras and scanners leave behind."""

import io
import random
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from targets.device.model.image_files import MAX_PIXELS, WORK, ImageError, check_decodable, decode, open_image
from targets.device.model.preprocess import Preprocessing, crop_pixels

ROOT = Path(__file__).parents[3]
MIB = 1 << 20


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
        (b"hello, I am no image at all", "truncated in its header, or not an image of a supported format"),
        (file_of(Image.fromarray(noise(40, 40)))[:20], "(cut short|damaged)"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a supported format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a supported format"),
        (file_of(Image.fromarray(noise(40, 40)))[:-200], "PNG file is (truncated|damaged)"),
        (file_of(Image.fromarray(noise(40, 40)), "JPEG")[:-200], "JPEG file is truncated"),
        (png_header(30_000, 30_000), "too many pixels"),
        (png_header(2**31 - 1, 2**31 - 1), "too many pixels"),
        (png_header(2**14, MAX_PIXELS // 2**14 + 1), "too many pixels .16384 x 4097; at most 67108864."),
        (png_header(1, 2**22 + 1), "too many .* .1 x 4194305; at most 67108864, where a row counts as 16 or more."),
        (png_header(0, 5), "(no pixels|damaged|supported format)"),
    ],
)
def test_bad_files_name_their_fault(data: bytes, reason: str) -> None:
    for act in (decode, check_decodable):
        with pytest.raises(ImageError, match=reason):
            act(data)


MEASURE = """
import sys
from PIL import Image
from targets.device.model.image_files import load_image, open_image

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))

data, small = (open(name, "rb").read() for name in sys.argv[1:])
Image.init()
load_image(open_image(small))
# From here on: a process begins with the peak of the one that started it.
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = peak()
opened = open_image(data)
stated = opened.effort.memory
load_image(opened)
print(stated, peak() - before)
"""
SIDE = 2048


def large(mode: str) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 256 + pixels[..., 1])
    return Image.fromarray(pixels, "RGBA").convert(mode)


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("I;16", "PNG", {}),
        ("1", "PNG", {}),
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"exif": exif_of(6)}),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0, "quality": 60}),
        ("CMYK", "JPEG", {"progressive": True, "quality": 60}),
        ("RGBA", "WEBP", {"lossless": True, "method": 0, "quality": 0}),
        ("P", "GIF", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("RGBA", "TIFF", {"compression": "tiff_deflate", "strip_size": 1 << 30}),
        ("RGB", "PPM", {}),
        ("RGB", "BMP", {}),
    ],
)
def test_decoding_takes_no_more_memory_than_is_told_from_the_header(
    mode: str, kind: str, options: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(file_of(large(mode), kind, **options))
    (tmp_path / "small").write_bytes(file_of(large(mode).resize((64, 64), Image.Resampling.NEAREST), kind, **options))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "large"), str(tmp_path / "small")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    stated, taken = map(int, done.stdout.split())
    # Rows and strips: they do not grow with the image.
    assert taken < stated + 6 * MIB
    assert taken > 0.3 * stated


def test_an_image_is_bounded_by_what_decoding_it_takes_and_not_by_its_pixels_alone() -> None:
    most = 1 << 20
    for mode, side in (("RGB", 1024), ("RGBA", 724), ("P", 915), ("I;16", 836)):
        options: dict[str, Any] = {"transparency": 3} if mode == "P" else {}
        decode(file_of(large(mode).crop((0, 0, side, side)), **options), most)
        with pytest.raises(
            ImageError, match=r"too many pixels( for its format: decoding it takes 4 MiB; at most 4 are)?"
        ):
            decode(file_of(large(mode).crop((0, 0, side + 2, side + 2)), **options), most)


def scan_bomb(scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    file = file_of(Image.fromarray(noise(256, 256)), "JPEG", progressive=True)
    last = file.rindex(b"\xff\xda")
    return file[:last] + file[last:-2] * scans + file[-2:]


def test_scans_without_end_are_counted_before_any_is_decoded() -> None:
    few = open_image(scan_bomb(1)).effort.work
    assert open_image(scan_bomb(160)).effort.work == pytest.approx(few + 10 * 256 * 256, rel=0.02)
    with pytest.raises(ImageError, match=r"256 x 256, JPEG .* takes too long to decode"):
        decode(scan_bomb(200), max_pixels=1 << 17)


def test_further_images_in_a_jpeg_are_not_counted() -> None:
    """Phones write a second one behind the first, and a small one into the EXIF block."""
    one = file_of(Image.fromarray(noise(64, 64)), "JPEG", progressive=True)
    thumbnail = exif_of(1)
    thumbnail[0x927C] = scan_bomb(100)[:40_000]
    carrying = file_of(Image.fromarray(noise(64, 64)), "JPEG", progressive=True, exif=thumbnail)
    work = open_image(one).effort.work
    assert open_image(one + scan_bomb(100)).effort.work == open_image(carrying).effort.work == work


def test_what_is_decoded_value_by_value_in_python_counts_as_the_work_it_is() -> None:
    plain = b"P2\n512 512\n255\n" + b"7 " * 512 * 512
    assert open_image(plain).effort.work == 32 * 512 * 512
    with pytest.raises(ImageError, match="takes too long to decode"):
        decode(plain, max_pixels=WORK * 32 * 512 * 512 // (2 * WORK * WORK))


def test_no_header_makes_pillow_load_an_image_before_it_is_counted() -> None:
    for mode, kind in (
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("RGB", "JPEG"),
        ("RGB", "WEBP"),
        ("RGB", "TIFF"),
        ("P", "GIF"),
    ):
        opened = open_image(file_of(large(mode).crop((0, 0, 200, 100)), kind))
        assert getattr(opened.image, "_im", None) is None or kind == "GIF"


@pytest.mark.parametrize(("side", "divisor"), [(1200, 1), (601, 1), (600, 2), (301, 2), (256, 4), (150, 8), (8, 8)])
def test_a_jpeg_is_decoded_at_the_scale_that_the_resize_allows(side: int, divisor: int) -> None:
    file = file_of(Image.fromarray(noise(1200, 1600)).resize((1600, 1200)), "JPEG", exif=exif_of(6))
    assert decode(file, shorter_side=side).size == (1200 // divisor, 1600 // divisor)
    assert decode(file).size == (1200, 1600)
    assert decode(file_of(Image.fromarray(noise(90, 60))), shorter_side=8).size == (60, 90)


def test_a_scale_changes_little_once_it_is_resized() -> None:
    smooth = Image.fromarray(noise(20, 30)).resize((1500, 1000), Image.Resampling.BICUBIC)
    file = file_of(smooth, "JPEG", quality=90)
    how = Preprocessing(resize=256, crop=(224, 224), mean=(0, 0, 0), std=(1, 1, 1))
    full, reduced = (crop_pixels(decode(file, shorter_side=side), how).astype(int) for side in (None, 256))
    assert np.abs(full - reduced).mean() < 1


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
