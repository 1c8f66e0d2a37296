"""A shard of a few images."""

from pathlib import Path

import numpy as np
import pytest
from tiny_artifact import PREPROCESSING
from tiny_package import CLASSES, TinyPackage, colorful, png, write_tiny_package

from pipeline.data.images import ImageSet
from pipeline.progress import Silent
from pipeline.validate.shard import pack_shard
from targets.device.files import SHARD
from targets.device.model.preprocess import Preprocessing, normalize
from targets.device.open_session import open_session

COUNT = 120


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "artifact")


def write_shard(
    tiny: TinyPackage,
    folder: Path,
    *,
    count: int = COUNT,
    preprocessing: Preprocessing = PREPROCESSING,
    classes: tuple[str, ...] = CLASSES,
) -> Path:
    """A shard on which artifact and float model are wrong about other images."""
    pixels = colorful(count, seed=5)
    with open_session(tiny.folder, tiny.manifest) as session:
        labels = session.infer(normalize(pixels, PREPROCESSING)).argmax(axis=1)
    labels[5:25] = (labels[5:25] + 1) % 4
    float_class = labels.copy()
    float_class[:10] = (float_class[:10] + 1) % 4
    logits = 7 * np.eye(4, dtype=np.float32)[float_class]
    encoded = [png(each) for each in pixels]
    names = [f"{index}.png" for index in range(count)]
    images = ImageSet(read=encoded.__getitem__, digests=names, names=names, labels=labels)
    pack_shard(images, logits, classes=classes, preprocessing=preprocessing, progress=Silent(), folder=folder)
    return folder / SHARD
