"""What answers: an artifact's folder here, or an image's container; the same code asks both."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from containers_here import containers_of
from dockerfiles import build, write_dockerfile
from tiny_artifact import PREPROCESSING
from tiny_package import Packaged, TinyPackage, colorful, write_tiny_package

from pipeline.artifacts import Place
from pipeline.cli.subject import open_subject
from pipeline.containers.engine import Engine
from pipeline.errors import CompileError, EngineMissing, PackageError
from pipeline.progress import Silent
from targets.device.model.golden import read_golden, write_golden
from targets.device.model.preprocess import normalize
from targets.device.model.seal import VARIABLE, write_seal


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "artifact")


def test_an_artifact_folder_answers_here(tiny: TinyPackage) -> None:
    with open_subject(str(tiny.folder), progress=Silent()) as subject:
        assert subject.place is Place.HOST
        assert subject.manifest == tiny.manifest
        assert (subject.runtime, subject.instruction_set) == (tiny.report.runtime, tiny.report.instruction_set)
        pixels, logits = read_golden(tiny.folder)
        np.testing.assert_array_equal(subject.session.infer(normalize(pixels, PREPROCESSING)), logits)


@pytest.mark.docker
def test_an_image_answers_the_same_in_its_container(engine: Engine, packaged: Packaged) -> None:
    images = normalize(colorful(20, seed=5), PREPROCESSING)
    with (
        open_subject(str(packaged.tiny.folder), progress=Silent()) as here,
        open_subject(packaged.image.tag, progress=Silent()) as there,
    ):
        np.testing.assert_array_equal(here.session.infer(images), there.session.infer(images))
        assert there.place is Place.IMAGE
        assert replace(there, session=here.session, place=here.place) == here
    assert containers_of(engine, os.getpid()) == []


def lose_the_model(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def damage_the_model(folder: Path) -> None:
    path = folder / "model.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def answer_otherwise(folder: Path) -> None:
    pixels, logits = read_golden(folder)
    write_golden(folder, pixels, logits + np.float32(0.1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lose_the_model, "has no model file model.onnx", id="no-model"),
        pytest.param(damage_the_model, "not the model its manifest describes", id="damaged"),
        pytest.param(lambda folder: (folder / "manifest.json").unlink(), "is not an artifact", id="no-manifest"),
    ],
)
def test_a_damaged_artifact_does_not_answer(tiny: TinyPackage, damage: Callable[[Path], None], message: str) -> None:
    damage(tiny.folder)
    with pytest.raises(CompileError, match=message), open_subject(str(tiny.folder), progress=Silent()):
        pass


@pytest.mark.docker
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lose_the_model, "has no model file model.onnx", id="no-model"),
        pytest.param(damage_the_model, "not the model its manifest describes: its SHA-256 is", id="damaged"),
        pytest.param(answer_otherwise, "16 golden images do not match: 100.0% of the classes agree", id="golden"),
    ],
)
def test_an_image_that_cannot_repeat_its_answers_is_never_ready_and_says_why(
    engine: Engine, packaged: Packaged, image_name: str, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    shutil.copytree(packaged.tiny.folder, tmp_path / "model")
    damage(tmp_path / "model")
    # Sealed as it is, or the seal alone would be the reason.
    seal = f"ENV {VARIABLE}={write_seal(tmp_path / 'model')}"
    lines = ("USER 0", "RUN rm -r /opt/edge-deploy/model", "COPY model /opt/edge-deploy/model", seal, "USER 10001")
    context = write_dockerfile(tmp_path, packaged.image.tag, image_name, *lines)
    engine.tag(build(engine, context), f"{image_name}:1")
    with (
        pytest.raises(PackageError, match=f"does not become ready: .*{reason}") as caught,
        open_subject(f"{image_name}:1", progress=Silent()),
    ):
        pass
    assert "the model cannot be served" in str(caught.value)
    assert containers_of(engine, os.getpid()) == []


@pytest.mark.docker
@pytest.mark.parametrize("name", ["absent:1", "Not-An-Image", "a b"])
@pytest.mark.usefixtures("engine")
def test_what_is_neither_folder_nor_image_is_named(name: str) -> None:
    with (
        pytest.raises(PackageError, match=f"{name} is neither a folder nor an image here.*deploy status"),
        open_subject(name, progress=Silent()),
    ):
        pass


def test_a_file_or_a_missing_folder_is_not_taken_for_an_image(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in (str(tmp_path / "file"), f"{tmp_path}/gone/"):
        with (
            pytest.raises(CompileError, match=f"{name} is not an artifact folder"),
            open_subject(name, progress=Silent()),
        ):
            pass


def test_an_image_needs_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    missing = pytest.raises(EngineMissing, match=r"no folder digits:1, .* no Docker engine")
    with missing, open_subject("digits:1", progress=Silent()):
        pass
