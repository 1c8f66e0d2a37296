"""Squares cut from photos: the pixels as they are stored, each photo decoded as seldom as memory allows."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from tiny_wider_face import jpeg

from pipeline.data.wider_face.photos import LARGEST_SIDE, Photos, decode_stored, png, stored_size
from targets.device.model.image_files import ImageError, decode


class Files:
    """Photos by name that count how often each is read."""

    def __init__(self, count: int, size: tuple[int, int] = (200, 150)) -> None:
        self.reads = [0] * count
        self._data = [jpeg([], seed=index, size=size) for index in range(count)]

    def __call__(self, name: str) -> bytes:
        self.reads[int(name)] += 1
        return self._data[int(name)]


def test_a_square_holds_the_photo_s_own_pixels() -> None:
    files = Files(1)
    square = Photos(files).square("0", 20, 30, 40)
    whole = np.asarray(Image.open(io.BytesIO(files("0"))))
    assert (np.asarray(square) == whole[30:70, 20:60]).all()
    assert (np.asarray(decode(png(square))) == np.asarray(square)).all()


def test_a_large_square_is_reduced() -> None:
    assert Photos(Files(1, size=(600, 500))).square("0", 0, 0, 500).size == (LARGEST_SIDE, LARGEST_SIDE)


def test_photos_are_decoded_once_while_they_fit() -> None:
    files = Files(3)
    photos = Photos(files, kept_bytes=3 * 200 * 150 * 3)
    for _ in range(5):
        for name in ("0", "1", "2"):
            photos.square(name, 0, 0, 10)
    assert files.reads == [1, 1, 1]


def test_the_oldest_one_goes_first() -> None:
    files = Files(3)
    photos = Photos(files, kept_bytes=2 * 200 * 150 * 3)
    for name in ("0", "1", "0", "2", "0", "1"):
        photos.square(name, 0, 0, 10)
    assert files.reads == [1, 2, 1]


def test_threads_that_want_one_photo_have_it_decoded_once() -> None:
    files = Files(2)
    photos = Photos(files)
    with ThreadPoolExecutor(8) as pool:
        squares = list(pool.map(lambda index: photos.square(str(index % 2), index, 0, 20), range(64)))
    assert files.reads == [1, 1]
    assert {square.size for square in squares} == {(20, 20)}


def test_a_camera_s_note_on_rotation_is_not_followed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("L", (30, 20)).save(file, "JPEG", exif=exif)
    assert stored_size(file.getvalue()) == (30, 20)
    assert (decode_stored(file.getvalue()).size, decode_stored(file.getvalue()).mode) == ((30, 20), "RGB")


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "is empty"), (b"no image", "not a JPEG or PNG"), (jpeg([], seed=0)[:900], "damaged")],
)
def test_what_is_no_photo_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_stored(data)
