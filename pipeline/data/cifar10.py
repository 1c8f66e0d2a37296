"""CIFAR-10 as published: python batches in a folder or in `cifar-10-python.tar.gz`, read without running their code.

Krizhevsky (2009): Learning multiple layers of features from tiny images. https://www.cs.toronto.edu/~kriz/cifar.html
"""

import hashlib
import io
import json
import pickle
import tarfile
import threading
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.files import Index, stamp_of
from pipeline.data.images import ImageSet, Source
from pipeline.errors import DataError

TRAINING = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
GATE = ("test_batch",)
META = "batches.meta"
FILES = (*TRAINING, *GATE, META)
FOLDER = "cifar-10-batches-py"
MAX_FILE_BYTES = 2**28


def open_cifar10(path: Path, *, index: Index) -> Source:
    """Open the batches; pixels are only read on access to an image. Raises `DataError`."""
    paths = _paths(path)
    stamp = sum((stamp_of(file.stat()) for file in paths), ())
    fact = index.facts(str(path.resolve()), {FOLDER: stamp}, lambda _: _facts(path))[FOLDER]
    raw = json.loads(fact)
    pixels = _Pixels(path)
    return Source(
        name="cifar10",
        classes=tuple(raw["classes"]),
        training=_image_set("training", raw, pixels),
        gate=_image_set("gate", raw, pixels),
    )


class _Pixels:
    """All pixels [N, 3072], training images first, read once on first use; thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._pixels: NDArray[np.uint8] | None = None

    def __reduce__(self) -> tuple[type["_Pixels"], tuple[Path]]:
        return _Pixels, (self._path,)

    def png(self, index: int) -> bytes:
        with self._lock:
            if self._pixels is None:
                batches = _read_batches(self._path)
                self._pixels = np.concatenate([batches[name][0] for name in (*TRAINING, *GATE)])
        file = io.BytesIO()
        image = self._pixels[index].reshape(3, 32, 32).transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG", compress_level=1)
        return file.getvalue()


def _facts(path: Path) -> str:
    """Return everything needed to plan with the data, as JSON: a hash, the labels and the class names."""
    batches = _read_batches(path)
    digest = hashlib.sha256()
    for name in (*TRAINING, *GATE):
        digest.update(batches[name][0].tobytes())
    facts = {
        "sha256": digest.hexdigest(),
        "classes": _class_names(path),
        "training": "".join(str(label) for name in TRAINING for label in batches[name][1]),
        "gate": "".join(str(label) for name in GATE for label in batches[name][1]),
    }
    return json.dumps(facts)


def _png(pixels: _Pixels, offset: int, index: int) -> bytes:
    return pixels.png(offset + index)


def _image_set(part: str, raw: Mapping[str, str], pixels: _Pixels) -> ImageSet:
    offset = 0 if part == "training" else len(raw["training"])
    count = len(raw[part])
    return ImageSet(
        read=partial(_png, pixels, offset),
        digests=[f"{raw['sha256']}[{offset + index}]" for index in range(count)],
        names=[f"cifar10 {part}[{index}]" for index in range(count)],
        labels=np.array([int(label) for label in raw[part]], dtype=np.int64),
    )


def _paths(path: Path) -> list[Path]:
    """Return the files of the data: the archive, or the batches."""
    if not path.exists():
        raise DataError(f"the CIFAR-10 data {path} does not exist. Give the folder of its batches or its tar.gz.")
    if path.is_file():
        return [path]
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"the CIFAR-10 folder {path} lacks {', '.join(missing)}. "
            "Expected: the python version's batches (data_batch_1 ... 5, test_batch, batches.meta), or its tar.gz."
        )
    return [folder / name for name in FILES]


def _read_files(path: Path) -> dict[str, bytes]:
    paths = _paths(path)
    if paths != [path]:
        return {file.name: file.read_bytes() for file in paths}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                file = archive.extractfile(member) if name in FILES and member.size <= MAX_FILE_BYTES else None
                if file is not None:
                    found[name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is neither a folder nor a valid tar archive: {error}.") from None
    missing = [name for name in FILES if name not in found]
    if missing:
        raise DataError(f"the CIFAR-10 archive {path} lacks {', '.join(missing)}. Is it the python version?")
    return found


def _read_batches(path: Path) -> dict[str, tuple[NDArray[np.uint8], list[int]]]:
    """Return pixels [N, 3072] and labels of every batch."""
    files = _read_files(path)
    return {name: _batch(f"{path}: {name}", _unpickle(f"{path}: {name}", files[name])) for name in (*TRAINING, *GATE)}


def _batch(where: str, raw: Mapping[str, object]) -> tuple[NDArray[np.uint8], list[int]]:
    if "fine_labels" in raw:
        raise DataError(f"{where} is from CIFAR-100; only CIFAR-10 is supported. Export it as an image folder.")
    pixels, labels = raw.get("data"), raw.get("labels")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise DataError(f"{where} has no uint8 array `data` of N x 3072 pixels. Download it again.")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise DataError(f"{where} has no list `labels` with one label for each of its {len(pixels)} images.")
    wrong = [label for label in labels if not isinstance(label, int) or not 0 <= label <= 9]
    if wrong:
        raise DataError(f"{where} has labels that are not 0..9, such as {wrong[0]!r}.")
    return pixels, labels


def _class_names(path: Path) -> list[str]:
    where = f"{path}: {META}"
    names = _unpickle(where, _read_files(path)[META]).get("label_names")
    if not isinstance(names, list) or len(names) != 10:
        raise DataError(f"{where} has no list `label_names` of 10 names. Download it again.")
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _unpickle(where: str, data: bytes) -> dict[str, object]:
    try:
        raw = _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        MemoryError,
    ) as error:
        raise DataError(f"{where} is damaged or not a CIFAR-10 batch: {error}. Download it again.") from None
    if not isinstance(raw, dict):
        raise DataError(f"{where} contains a {type(raw).__name__} instead of a dict. Download it again.")
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in raw.items()}


class _ArraysOnly(pickle.Unpickler):
    """Unpickler for NumPy arrays; any other name in the pickle is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module.replace("numpy.core", "numpy._core"), name) == ("numpy._core.multiarray", "_reconstruct"):
            return _reconstruct
        if (module.replace("numpy.core", "numpy._core"), name) == ("numpy._core.numeric", "_frombuffer"):
            return _from_buffer
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"it tries to run {module}.{name}, which no data needs")


def _reconstruct(kind: type, shape: tuple[int, ...], typecode: object) -> NDArray[np.uint8]:
    """Do the same as NumPy's `_reconstruct` for a plain array: return an empty one, whose state is set next."""
    del typecode
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError(f"it contains an array of kind {kind!r} and shape {shape!r}")
    return np.ndarray((0,), dtype=np.uint8)


def _from_buffer(buffer: bytes, kind: np.dtype[np.uint8], shape: tuple[int, ...], order: str) -> NDArray[np.uint8]:
    """Replace the function that newer pickle protocols call."""
    if kind != np.uint8 or order != "C":
        raise pickle.UnpicklingError(f"it contains an array of type {kind} in order {order!r}")
    return np.frombuffer(buffer, dtype=np.uint8).reshape(shape)


def _latin1(text: str, encoding: str) -> bytes:
    """Return bytes as Python 3 writes them for Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it contains bytes in the encoding {encoding!r}")
    return text.encode("latin1")
