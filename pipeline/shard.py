"""Write the shard: all that a later place needs for the gate's report (see `targets.device.shard`)."""

from pathlib import Path

import numpy as np

from pipeline.answers import logits_of
from pipeline.artifacts import Checkpoint
from pipeline.checkpoint import build_network
from pipeline.data.batches import Batches
from pipeline.data.dataset import Dataset
from pipeline.errors import CheckpointError
from pipeline.pack import pack_shard
from pipeline.progress import Progress
from targets.device.preprocess import Preprocessing


def write_shard(
    checkpoint: Checkpoint, dataset: Dataset, preprocessing: Preprocessing, *, progress: Progress, folder: Path
) -> None:
    """Run the original float network over the gate's images and write `shard.zip` into `folder`.

    `checkpoint` is the one that came in: neither pruned nor quantized. Equal inputs give equal bytes.
    """
    images = dataset.gate
    network = build_network(checkpoint)
    logits = logits_of(network, Batches(images, preprocessing), progress=progress, name="float answers")
    if not np.isfinite(logits).all():
        raise CheckpointError(
            f"the float network's answer to {int((~np.isfinite(logits)).any(axis=1).sum())} of {len(images)} images "
            "is not a finite number. Check that weights and preprocessing belong together."
        )
    pack_shard(images, logits, classes=dataset.classes, preprocessing=preprocessing, progress=progress, folder=folder)
