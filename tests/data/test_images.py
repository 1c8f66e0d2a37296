"""Image sets cross to the other processes of a training."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.readers import open_dataset


def write_folder(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for index in range(10):
                pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")


@pytest.mark.parametrize("kind", ["digits", "folder", "zip"])
def test_a_copy_in_another_process_has_the_same_images(kind: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    shutil.make_archive(str(tmp_path / "images"), "zip", tmp_path / "images")
    spec = {"digits": "digits", "folder": f"{tmp_path}/images", "zip": f"{tmp_path}/images.zip"}[kind]
    images = open_dataset(spec).training
    copy = pickle.loads(pickle.dumps(images))
    assert copy.fingerprint == images.fingerprint
    assert all(copy.encoded(index) == images.encoded(index) for index in range(10))
