"""Write the shard: all that a later place needs for the gate's report (see `targets.device.shard`)."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.archive import npy_bytes, write_archive
from pipeline.artifacts import Checkpoint
from pipeline.checkpoint import build_network
from pipeline.data.batches import Batches
from pipeline.data.dataset import Dataset, ImageSet
from pipeline.errors import CheckpointError
from pipeline.progress import Advance, Progress
from pipeline.training import logits_of
from targets.device.preprocess import Preprocessing
from targets.device.shard import FACTS, LABELS, LOGITS, SCHEMA, shard_sha256

SHARD = "shard.zip"
KINDS = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpg",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"RIFF": "webp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
}


def write_shard(
    checkpoint: Checkpoint, dataset: Dataset, preprocessing: Preprocessing, *, progress: Progress, folder: Path
) -> None:
    """Run the original float network over the gate's images and write `shard.zip` into `folder`.

    `checkpoint` is the one that came in: neither pruned nor quantized. Equal inputs give equal bytes.
    """
    images = dataset.gate
    logits = logits_of(build_network(checkpoint), Batches(images, preprocessing))
    if not np.isfinite(logits).all():
        raise CheckpointError(
            f"the float network's answer to {int((~np.isfinite(logits)).any(axis=1).sum())} of {len(images)} images "
            "is not a finite number. Check that weights and preprocessing belong together."
        )
    pack_shard(images, logits, classes=dataset.classes, preprocessing=preprocessing, progress=progress, folder=folder)


def pack_shard(
    images: ImageSet,
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
    images: ImageSet,
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
    yield FACTS, json.dumps({**facts, "sha256": shard_sha256(facts)}, sort_keys=True, indent=1).encode()


def _extension(contents: bytes) -> str:
    """For people who unzip a shard; readers look at the contents."""
    return next((kind for start, kind in KINDS.items() if contents.startswith(start)), "img")
