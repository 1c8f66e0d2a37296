"""Write the shard: all that a later place needs for the gate's report (see `targets.device.gate.shard`)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.readers import Dataset
from pipeline.progress import Progress
from pipeline.validate.pack import pack_shard
from targets.device.model.preprocess import Preprocessing


def write_shard(
    logits: NDArray[np.float32],
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    progress: Progress,
    folder: Path,
) -> None:
    """Pack the gate's images with what the original float network answers to them into `folder`, as `shard.zip`.

    `logits` [N, C] are those of stage `load`. Equal inputs give equal bytes.
    """
    pack_shard(
        dataset.gate, logits, classes=dataset.classes, preprocessing=preprocessing, progress=progress, folder=folder
    )
