"""Zip files whose bytes depend only on their contents: no times, no owners, no compression."""

import io
import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

# The earliest time a zip file can store.
NO_TIME = (1980, 1, 1, 0, 0, 0)
MAX_BYTES = 2 << 30
UNIX, REGULAR_FILE = 3, 0o100644 << 16

Array = NDArray[np.float32] | NDArray[np.int64] | NDArray[np.str_]


def write_archive(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write (name, contents) one after the other; they are never all in memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, contents in members:
            info = zipfile.ZipInfo(name, NO_TIME)
            info.create_system, info.external_attr = UNIX, REGULAR_FILE
            archive.writestr(info, contents)


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an `.npz` file; unlike `numpy.savez`, equal arrays give equal bytes."""
    write_archive(path, ((f"{name}.npy", npy_bytes(array)) for name, array in arrays.items()))


def check_arrays(file: IO[bytes], *, most_bytes: int = MAX_BYTES) -> None:
    """Raise `ValueError` for an `.npz` file whose arrays claim more than they contain, before they are read.

    NumPy allocates what a header claims, and a device may send any header.
    """
    with zipfile.ZipFile(file) as archive:
        total = sum(info.file_size for info in archive.infolist())
        if total > most_bytes:
            raise ValueError(f"it unpacks to {total:,} bytes; the limit is {most_bytes:,}")
        for info in archive.infolist():
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                headers = np.lib.format
                is_first = version == (1, 0)
                read = headers.read_array_header_1_0 if is_first else headers.read_array_header_2_0
                shape, _, dtype = read(member)
                claimed = math.prod(shape) * dtype.itemsize
            if claimed > info.file_size:
                raise ValueError(f"{info.filename} claims {claimed:,} bytes and has {info.file_size:,}")


def npy_bytes(array: Array) -> bytes:
    """Return the array as an `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array) if array.ndim else array, allow_pickle=False)
    return buffer.getvalue()
