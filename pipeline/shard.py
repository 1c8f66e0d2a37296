"""Write the shard: all that a later place needs for the gate's report (see `targets.device.shard`)."""

from pathlib import Path

from pipeline.baseline import read_gate_logits
from pipeline.data.dataset import Dataset
from pipeline.pack import pack_shard
from pipeline.progress import Progress
from targets.device.preprocess import Preprocessing


def write_shard(
    loaded: Path, dataset: Dataset, preprocessing: Preprocessing, *, progress: Progress, folder: Path
) -> None:
    """Pack the gate's images with what the original float network answers to them into `folder`, as `shard.zip`.

    `loaded` is the folder of stage `load`. Equal inputs give equal bytes.
    """
    logits = read_gate_logits(loaded)
    pack_shard(
        dataset.gate, logits, classes=dataset.classes, preprocessing=preprocessing, progress=progress, folder=folder
    )
