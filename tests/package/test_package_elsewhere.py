"""An artifact made on a host of another platform: its image passes a gate of its own, or there is none.

Here the platform is only said to be another, so that the host's answers are no standard; test_arm64.py has one.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from images_of_tests import own_target
from packaged_images import images_named, layers
from tiny_package import Packaged, TinyPackage, write_tiny_package

from pipeline.artifacts import AccuracyReport, Image, Judge, Place
from pipeline.containers.engine import Engine
from pipeline.errors import GateFailed, PackageError
from pipeline.package.labels import PREFIX
from pipeline.package.package import package
from pipeline.package.settings import ImageSettings
from pipeline.progress import Silent
from pipeline.validate.judge import Terms, judge_predictions
from pipeline.validate.predictions import read_predictions, write_predictions
from pipeline.workplace import Workplace

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    """An artifact whose host answered otherwise: rounded sums have changed a class here and there."""
    made = write_tiny_package(tmp_path / "artifact")
    given = read_predictions(made.proof.predictions)
    logits = given.logits.copy()
    logits[:3] = np.roll(logits[:3], 1, axis=1)
    write_predictions(made.proof.predictions, replace(given, logits=logits))
    return replace(made, artifact=replace(made.artifact, place=Place.EMULATED, measured_by="linux/elsewhere"))


@pytest.fixture
def build(
    engine: Engine, packaged: Packaged, image_name: str, tmp_path: Path
) -> Callable[[TinyPackage, Judge], Image]:
    def act(tiny: TinyPackage, judge: Judge) -> Image:
        return package(
            replace(tiny.judged, report=replace(tiny.report, drop_points=9.0)),
            ImageSettings(
                name=image_name,
                version="0.1.0",
                target=own_target(engine),
                base_image=packaged.base_image,
                labels={"said": "so"},
            ),
            shard=tiny.proof.shard,
            context=tmp_path / "context",
            judge=judge,
            at=Workplace(folder=tmp_path / "out", progress=Silent()),
        )

    return act


def judging(tiny: TinyPackage) -> Judge:
    def judge(answers: Path, place: Place) -> AccuracyReport:
        return judge_predictions(
            tiny.proof.shard, answers, artifact=tiny.folder, place=place, terms=Terms(max_drop=50.0, gate_looks=1)
        )

    return judge


def test_the_labels_tell_of_the_gate_that_the_image_itself_has_passed(
    build: Callable[[TinyPackage, Judge], Image], engine: Engine, packaged: Packaged, tiny: TinyPackage
) -> None:
    image = build(tiny, judging(tiny))
    labels = engine.client.images.get(image.tag).labels
    assert (labels[PREFIX + "place"], image.place) == ("image", Place.IMAGE)
    assert float(labels[PREFIX + "drop-points"]) == pytest.approx(packaged.tiny.report.drop_points, abs=1e-3)
    assert labels["said"] == "so"
    assert engine.id_of(image.tag) == image.id
    # The model's layer holds the host's report, which is another one here.
    assert layers(engine, image.id)[:-1] == layers(engine, packaged.image.id)[:-1]


def test_an_image_that_fails_its_own_gate_is_removed(
    build: Callable[[TinyPackage, Judge], Image], engine: Engine, tiny: TinyPackage, image_name: str
) -> None:
    def refuse(answers: Path, place: Place) -> AccuracyReport:
        assert len(read_predictions(answers).logits) == 120
        raise GateFailed("too much is lost there")

    with pytest.raises(GateFailed, match="too much is lost there"):
        build(tiny, refuse)
    assert images_named(engine, image_name) == []


@pytest.mark.long
def test_an_image_that_an_earlier_build_labelled_goes_when_it_is_refuted(
    build: Callable[[TinyPackage, Judge], Image], engine: Engine, tiny: TinyPackage
) -> None:
    image = build(tiny, judging(tiny))

    def refute(answers: Path, place: Place) -> AccuracyReport:
        raise PackageError("it answers nonsense")

    with pytest.raises(PackageError, match="nonsense"):
        build(tiny, refute)
    assert engine.id_of(image.tag) is None
