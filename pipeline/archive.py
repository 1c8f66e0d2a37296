"""Zip files whose bytes depend on their contents alone: no times, no owners, no compression."""

import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# The earliest time a zip file can state.
NO_TIME = (1980, 1, 1, 0, 0, 0)
UNIX, REGULAR_FILE = 3, 0o100644 << 16

Array = NDArray[np.float32] | NDArray[np.int64] | NDArray[np.str_]


def write_archive(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write (name, contents) one after the other; they are never all held in memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, contents in members:
            info = zipfile.ZipInfo(name, NO_TIME)
            info.create_system, info.external_attr = UNIX, REGULAR_FILE
            archive.writestr(info, contents)


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """An `.npz` file; unlike `numpy.savez`, equal arrays give equal bytes."""
    write_archive(path, ((f"{name}.npy", npy_bytes(array)) for name, array in arrays.items()))


def npy_bytes(array: Array) -> bytes:
    """The array as an `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array) if array.ndim else array, allow_pickle=False)
    return buffer.getvalue()
