"""Arrays that claim more than they hold are refused before room is made for them."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.validate.archive import check_arrays, npy_bytes, write_arrays


def archive(**members: bytes) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    buffer.seek(0)
    return buffer


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_what_is_written_passes(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {"logits": np.ones((4, 3), np.float32), "name": np.array("x")})
    with (tmp_path / "a.npz").open("rb") as file:
        check_arrays(file)


def test_forty_terabytes_are_not_made_room_for() -> None:
    with pytest.raises(ValueError, match=r"claims 40,000,000,000,000 bytes"):
        check_arrays(archive(logits=header("(1000000, 10000000)") + bytes(16)))


def test_what_unpacks_to_too_much_is_refused() -> None:
    with pytest.raises(ValueError, match="unpacks to"):
        check_arrays(archive(logits=npy_bytes(np.zeros((1000, 1000), np.float32))), most_bytes=1_000_000)
