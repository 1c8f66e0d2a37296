"""Write the shard: everything another place needs for the gate's report (see `targets.device.gate.shard`).

A shard is packed from a dataset's images, or from a part of another shard's.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.data.readers import Dataset
from pipeline.data.sampling import spread
from pipeline.errors import DataError
from pipeline.progress import Advance, Progress, Silent
from pipeline.validate.archive import npy_bytes, write_archive
from targets.device.files import SHARD
from targets.device.gate.shard import FACTS, LABELS, LOGITS, SCHEMA, Shard, ShardError, shard_sha256
from targets.device.model.preprocess import Preprocessing

KINDS = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpg",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"RIFF": "webp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
}


class Images(Protocol):
    """A dataset's images, or a shard."""

    @property
    def labels(self) -> NDArray[np.int64]: ...

    @property
    def groups(self) -> Sequence[str]:
        """A name for each image, or empty."""

    def __len__(self) -> int: ...

    def encoded(self, index: int) -> bytes: ...


class Some:
    """The images of `whole` at `indices`."""

    def __init__(self, whole: Shard, indices: list[int]) -> None:
        self._whole, self._indices = whole, indices

    @property
    def labels(self) -> NDArray[np.int64]:
        return self._whole.labels[self._indices]

    @property
    def groups(self) -> Sequence[str]:
        return [self._whole.groups[index] for index in self._indices] if self._whole.groups else ()

    def __len__(self) -> int:
        return len(self._indices)

    def encoded(self, index: int) -> bytes:
        return self._whole.encoded(self._indices[index])


def pack_shard(
    images: Images,
    logits: NDArray[np.float32],
    *,
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    progress: Progress,
    folder: Path,
) -> None:
    """Write `shard.zip` with these logits [N, C] of the float baseline."""
    folder.mkdir(parents=True, exist_ok=True)
    with progress.task("shard", len(images)) as advance:
        write_archive(folder / SHARD, _members(images, logits, classes, preprocessing, advance))


def _members(
    images: Images,
    logits: NDArray[np.float32],
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    advance: Advance,
) -> Iterator[tuple[str, bytes]]:
    arrays = {LABELS: npy_bytes(images.labels), LOGITS: npy_bytes(logits)}
    yield from arrays.items()
    listed = []
    for index in range(len(images)):
        contents = images.encoded(index)
        name = f"images/{index}.{_extension(contents)}"
        listed.append([name, hashlib.sha256(contents).hexdigest()])
        yield name, contents
        advance()
    facts: dict[str, object] = {
        "schema": SCHEMA,
        "classes": list(classes),
        "preprocessing": preprocessing.to_dict(),
        "files": {name: hashlib.sha256(contents).hexdigest() for name, contents in arrays.items()},
        "images": listed,
    }
    if images.groups:
        facts["groups"] = list(images.groups)
    yield FACTS, json.dumps({**facts, "sha256": shard_sha256(facts)}, sort_keys=True, indent=1).encode()


def _extension(contents: bytes) -> str:
    """Return a file name extension, for people who unzip a shard; readers check the contents."""
    return next((kind for start, kind in KINDS.items() if contents.startswith(start)), "img")


def pack_some(shard: Path, count: int, folder: Path) -> Path:
    """Pack `count` of a shard's images, in proportion to its classes, into a new shard; return its path.

    Returns the shard itself if it has no more images. Equal inputs give equal bytes. Raises `DataError`.
    """
    try:
        with Shard(shard) as whole:
            if len(whole) <= count:
                return shard
            by_class = np.argsort(whole.labels, kind="stable")
            chosen = sorted(int(by_class[index]) for index in spread(len(whole), count))
            pack_shard(
                Some(whole, chosen),
                whole.logits[chosen],
                classes=whole.classes,
                preprocessing=whole.preprocessing,
                progress=Silent(),
                folder=folder,
            )
    except ShardError as error:
        raise DataError(str(error)) from None
    return folder / SHARD


def write_shard(
    logits: NDArray[np.float32],
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    progress: Progress,
    folder: Path,
) -> None:
    """Pack the gate's images with the original float network's answers into `folder`, as `shard.zip`.

    `logits` [N, C] are those of stage `load`. Equal inputs give equal bytes.
    """
    pack_shard(
        dataset.gate, logits, classes=dataset.classes, preprocessing=preprocessing, progress=progress, folder=folder
    )
