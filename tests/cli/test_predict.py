"""`deploy predict`: class and score of photos, the same from an artifact's folder and from its image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Photo
from tiny_artifact import PREPROCESSING
from tiny_package import Packaged, TinyPackage, colorful, png, with_manifest, write_tiny_package

from pipeline.cli.predict import predict, rank_classes
from pipeline.errors import DataError
from targets.device.model.preprocess import normalize
from targets.device.open_session import open_session

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "artifact")


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three photos, the last one larger than what the network sees."""
    paths = [tmp_path / f"{name}.png" for name in "xyz"]
    for path, pixels in zip(paths, colorful(3, seed=8), strict=True):
        path.write_bytes(png(pixels))
    Photo.open(paths[2]).resize((24, 16)).save(paths[2])
    return paths


def answers(name: str, photos: list[Path], capsys: Capture, *, top: int = 4) -> Any:
    predict(name, photos, top=top, as_json=True)
    return json.loads(capsys.readouterr().out)


def test_the_score_is_the_softmax_of_the_logits(tiny: TinyPackage, photos: list[Path], capsys: Capture) -> None:
    with open_session(tiny.folder, tiny.manifest) as session:
        logits = session.infer(normalize(colorful(3, seed=8)[:1], PREPROCESSING))[0].astype(np.float64)
    scores = np.exp(logits) / np.exp(logits).sum()
    (answer,) = answers(str(tiny.folder), photos[:1], capsys)
    assert answer["photo"] == str(photos[0])
    found = {each["class"]: each["score"] for each in answer["classes"]}
    assert [each["class"] for each in answer["classes"]] == [tiny.manifest.classes[i] for i in np.argsort(-scores)]
    assert found == pytest.approx(dict(zip(tiny.manifest.classes, scores, strict=True)), abs=1e-6)


@pytest.mark.docker
def test_an_image_gives_the_same_classes_and_scores_as_its_artifact(
    packaged: Packaged, photos: list[Path], capsys: Capture
) -> None:
    here = answers(str(packaged.tiny.folder), photos, capsys)
    assert answers(packaged.image.tag, photos, capsys) == here
    assert len(here) == 3


def test_the_text_has_a_line_for_each_photo(tiny: TinyPackage, photos: list[Path], capsys: Capture) -> None:
    predict(str(tiny.folder), photos, top=2, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(photo) for photo in photos]
    assert all(line.count("%") == 2 for line in lines)


def test_a_photo_that_cannot_be_used_is_named(tiny: TinyPackage, photos: list[Path], tmp_path: Path) -> None:
    photos[1].write_text("no image")
    with pytest.raises(DataError, match=r"y\.png cannot be used: .*not an image of a supported format"):
        predict(str(tiny.folder), photos, top=1, as_json=False)
    with pytest.raises(DataError, match=r"gone\.png cannot be read: No such file"):
        predict(str(tiny.folder), [tmp_path / "gone.png"], top=1, as_json=False)
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        predict(str(tiny.folder), [tmp_path], top=1, as_json=False)


def test_a_photo_of_another_size_than_a_model_without_a_crop_takes_is_named(
    tiny: TinyPackage, photos: list[Path]
) -> None:
    with_manifest(tiny.folder, preprocessing=type(PREPROCESSING)(None, None, PREPROCESSING.mean, PREPROCESSING.std))
    predict(str(tiny.folder), photos[:2], top=1, as_json=True)
    with pytest.raises(DataError, match=r"z\.png is 24 x 16 after preprocessing, but the model takes 8 x 8"):
        predict(str(tiny.folder), photos, top=1, as_json=True)


def test_equal_scores_keep_the_order_of_the_classes_and_large_logits_do_not_overflow() -> None:
    logits = np.array([0.0, 1000.0, 1000.0], np.float32)
    assert rank_classes(logits, ("a", "b", "c"), 5) == [("b", 0.5), ("c", 0.5), ("a", 0.0)]
    assert rank_classes(logits, ("a", "b", "c"), 1) == [("b", 0.5)]
