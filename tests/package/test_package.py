"""Packaging: an image that answers as the artifact did, or none; one of these images is built for all tests."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from containers_here import containers_of
from images_of_tests import own_target
from numpy.typing import NDArray
from packaged_images import images_named, layers
from tiny_package import Packaged, TinyPackage, with_manifest, write_tiny_package

from pipeline import __version__
from pipeline.artifacts import Image, Place, Verdict
from pipeline.containers.engine import Engine
from pipeline.errors import EngineMissing, PackageError
from pipeline.package.build_context import MODEL
from pipeline.package.image_record import read_image
from pipeline.package.labels import OPEN_CONTAINER, PREFIX, SEAL, image_labels
from pipeline.package.package import _check_same, package
from pipeline.package.settings import ImageSettings
from pipeline.progress import Silent
from pipeline.validate.predictions import Predictions, read_predictions, write_predictions
from pipeline.workplace import Workplace
from targets.device.files import PREDICTIONS
from targets.target import find_target

LOGITS = np.array([[4.0, 0.0], [0.0, 6.0]], np.float32)


@pytest.fixture
def tiny(packaged: Packaged, tmp_path: Path) -> TinyPackage:
    """A copy of the packaged artifact, to be changed at will."""
    folder = tmp_path / "artifact"
    shutil.copytree(packaged.tiny.folder, folder)
    given = packaged.tiny
    return TinyPackage(
        artifact=replace(given.artifact, folder=folder),
        report=given.report,
        proof=replace(given.proof, shard=folder / "shard.zip", predictions=folder / PREDICTIONS),
    )


def packed(engine: Engine, tiny: TinyPackage, base_image: str, name: str, folder: Path) -> Image:
    return package(
        tiny.judged,
        ImageSettings(
            name=name,
            version="0.1.0",
            target=own_target(engine),
            base_image=base_image,
            labels={"dev.edge-deploy.recipe.sha256": "0123abc", "said": 'a "quoted" $HOME \\ name'},
        ),
        shard=tiny.proof.shard,
        context=folder / "context",
        at=Workplace(folder=folder, progress=Silent()),
    )


def predictions(logits: NDArray[np.float32], instruction_set: str = "avx2") -> Predictions:
    return Predictions(
        logits=logits,
        shard_sha256="a",
        artifact_sha256="b",
        instruction_set=instruction_set,
        runtime="onnxruntime 1",
    )


@pytest.mark.docker
def test_the_image_says_what_it_is_without_being_started(engine: Engine, packaged: Packaged) -> None:
    config = engine.client.images.get(packaged.image.tag).attrs["Config"]
    report = packaged.tiny.report
    expected = {
        OPEN_CONTAINER + "title": packaged.image.tag.partition(":")[0],
        OPEN_CONTAINER + "version": "0.1.0",
        OPEN_CONTAINER + "base.name": packaged.base_image,
        PREFIX + "tool": __version__,
        PREFIX + "target": "cpu",
        PREFIX + "runtime": report.runtime,
        PREFIX + "precision": "int8",
        PREFIX + "model.sha256": report.artifact_sha256,
        PREFIX + "shard.sha256": report.shard_sha256,
        PREFIX + "recipe.sha256": "0123abc",
        PREFIX + "verdict": "pass",
        PREFIX + "place": "image",
        PREFIX + "float-top1": f"{report.float_top1:.4f}",
        PREFIX + "expected-accuracy": "none given",
        PREFIX + "drop-points": "0.000",
        PREFIX + "images": "120",
        PREFIX + "gate-looks": "1",
        PREFIX + "confidence": "0.9500",
        PREFIX + "instruction-set": report.instruction_set,
        SEAL: config["Labels"][SEAL],
        "said": 'a "quoted" $HOME \\ name',
    }
    assert config["Labels"] == expected
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][-1] == "healthcheck"


@pytest.mark.docker
def test_what_is_remembered_of_the_image_is_so(engine: Engine, packaged: Packaged) -> None:
    assert read_image(packaged.folder) == packaged.image
    assert packaged.image.tag.endswith(":0.1.0-cpu")
    assert packaged.image.id == engine.id_of(packaged.image.tag)
    assert packaged.image.platform == engine.platform
    assert packaged.image.bytes == engine.bytes_of(packaged.image.tag)
    assert not (packaged.folder.parent / "context").exists()


@pytest.mark.docker
def test_the_gates_images_get_the_same_answers_in_the_container_as_on_the_host(packaged: Packaged) -> None:
    here, there = read_predictions(packaged.tiny.proof.predictions), read_predictions(packaged.folder / PREDICTIONS)
    np.testing.assert_array_equal(here.logits, there.logits)
    assert here.shard_sha256 == there.shard_sha256
    assert len(here.logits) == 120


@pytest.mark.docker
def test_the_same_again_is_the_same_image(engine: Engine, packaged: Packaged, tmp_path: Path) -> None:
    name = packaged.image.tag.partition(":")[0]
    assert packed(engine, packaged.tiny, packaged.base_image, name, tmp_path) == packaged.image


@pytest.mark.docker
def test_another_model_costs_its_own_layer_alone(
    engine: Engine, packaged: Packaged, image_name: str, tmp_path: Path
) -> None:
    other = write_tiny_package(tmp_path / "artifact", quantized=False)
    image = packed(engine, other, packaged.base_image, image_name, tmp_path)
    ours, others = layers(engine, packaged.image.tag), layers(engine, image.tag)
    assert ours[:-1] == others[:-1]
    assert ours[-1] != others[-1]


@pytest.mark.docker
def test_predictions_that_differ_leave_no_image(
    engine: Engine, tiny: TinyPackage, packaged: Packaged, image_name: str, tmp_path: Path
) -> None:
    given = read_predictions(tiny.proof.predictions)
    write_predictions(tiny.proof.predictions, replace(given, logits=np.roll(given.logits, 1, axis=0)))
    with pytest.raises(PackageError, match=r"answers differ from the artifact's.*[1-9]\d* of 120 classes differ"):
        packed(engine, tiny, packaged.base_image, image_name, tmp_path)
    assert images_named(engine, image_name) == []
    assert containers_of(engine, os.getpid()) == []
    assert (tmp_path / "context" / "Dockerfile").is_file()
    assert tiny.artifact.manifest.is_file()


@pytest.mark.docker
def test_an_image_of_an_earlier_build_goes_when_it_is_refuted(
    engine: Engine, tiny: TinyPackage, packaged: Packaged, image_name: str, tmp_path: Path
) -> None:
    image = packed(engine, tiny, packaged.base_image, image_name, tmp_path)
    given = read_predictions(tiny.proof.predictions)
    write_predictions(tiny.proof.predictions, replace(given, logits=-given.logits))
    with pytest.raises(PackageError, match="was removed"):
        packed(engine, tiny, packaged.base_image, image_name, tmp_path)
    assert engine.id_of(image.tag) is None
    assert engine.id_of(image.id) is None


def fail_the_gate(tiny: TinyPackage) -> TinyPackage:
    return replace(tiny, report=replace(tiny.report, verdict=Verdict.FAIL))


def take_another_report(tiny: TinyPackage) -> TinyPackage:
    return replace(tiny, report=replace(tiny.report, artifact_sha256="0" * 64))


def take_another_shard(tiny: TinyPackage) -> TinyPackage:
    return replace(tiny, report=replace(tiny.report, shard_sha256="0" * 64))


def damage_the_model(tiny: TinyPackage) -> TinyPackage:
    (tiny.folder / "model.onnx").write_bytes(b"something else")
    return tiny


def lose_the_manifest(tiny: TinyPackage) -> TinyPackage:
    tiny.artifact.manifest.unlink()
    return tiny


def prove_with_a_newer_runtime(tiny: TinyPackage) -> TinyPackage:
    with_manifest(tiny.folder, runtime_version="9.0.0")
    return tiny


@pytest.mark.docker
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(fail_the_gate, "failed its gate, so no image is built from it", id="failed"),
        pytest.param(take_another_report, "the report is about the model 0000.*Validate this artifact", id="report"),
        pytest.param(take_another_shard, r"predictions .* on the shard .*the report .*0000.*Validate", id="shard"),
        pytest.param(damage_the_model, "cannot be packaged: .*not the model its manifest describes", id="model"),
        pytest.param(lose_the_manifest, "cannot be packaged: .*is not an artifact", id="manifest"),
        pytest.param(prove_with_a_newer_runtime, r"proven with onnxruntime 9\.0\.0, the image would", id="runtime"),
    ],
)
def test_what_is_not_proven_is_not_packaged(
    engine: Engine,
    packaged: Packaged,
    tiny: TinyPackage,
    image_name: str,
    tmp_path: Path,
    change: Callable[[TinyPackage], TinyPackage],
    message: str,
) -> None:
    with pytest.raises(PackageError, match=message):
        packed(engine, change(tiny), packaged.base_image, image_name, tmp_path)
    assert images_named(engine, image_name) == []
    assert not (tmp_path / "context").exists()


def test_an_undecided_verdict_is_on_the_label(tmp_path: Path) -> None:
    tiny = write_tiny_package(tmp_path / "artifact")
    undecided = replace(tiny.report, verdict=Verdict.UNDECIDED, place=Place.HOST, drop_points=-0.25)
    labels = image_labels(tiny.manifest, undecided, name="a", version="b", base="c")
    assert labels[PREFIX + "verdict"] == "undecided"
    assert labels[PREFIX + "drop-points"] == "-0.250"
    stated = image_labels(tiny.manifest, replace(undecided, expected_accuracy=0.917), name="a", version="b", base="c")
    assert stated[PREFIX + "expected-accuracy"] == "0.9170"
    # What is built elsewhere from the context has been proven on the host alone.
    assert labels[PREFIX + "place"] == "host"


def test_without_an_engine_the_context_stays_and_the_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    tiny = write_tiny_package(tmp_path / "artifact")
    with pytest.raises(EngineMissing) as caught:
        package(
            tiny.judged,
            ImageSettings(
                name="named", version="2", target=find_target("cpu"), base_image="edge-deploy-base:bookworm", labels={}
            ),
            shard=tiny.proof.shard,
            context=tmp_path / "context",
            at=Workplace(folder=tmp_path / "out", progress=Silent()),
        )
    assert caught.value.exit_code == 12
    context = tmp_path / "context"
    assert f"docker build --network none --tag named:2-cpu {context}" in str(caught.value)
    assert "no Docker engine answers at DOCKER_HOST=tcp://127.0.0.1:9" in str(caught.value)
    assert "ARG BASE=edge-deploy-base:bookworm" in (context / "Dockerfile").read_text()
    assert list((context / "wheels").glob("onnxruntime-*.whl"))
    assert (context / MODEL / "model.onnx").read_bytes() == (tiny.folder / "model.onnx").read_bytes()


def test_without_an_engine_a_base_that_only_the_user_knows_gives_no_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    tiny = write_tiny_package(tmp_path / "artifact")
    with pytest.raises(EngineMissing, match=r"the Python in my-own:1 is unknown.*leave out --base-image"):
        package(
            tiny.judged,
            ImageSettings(name="named", version="2", target=find_target("cpu"), base_image="my-own:1", labels={}),
            shard=tiny.proof.shard,
            context=tmp_path / "context",
            at=Workplace(folder=tmp_path / "out", progress=Silent()),
        )


@pytest.mark.parametrize(
    ("moved", "instruction_set", "is_same"),
    [
        pytest.param([[0, 0], [0, 0]], "avx2", True, id="equal"),
        pytest.param([[0.0059, 0], [0, 0]], "avx2", True, id="within-the-share-of-the-range"),
        pytest.param([[0.0061, 0], [0, 0]], "avx2", False, id="above-it"),
        pytest.param([[0.5, 0], [0, 0.5]], "avx512_vnni", True, id="other-cpu-may-round-otherwise"),
        pytest.param([[-5, 0], [0, 0]], "avx512_vnni", False, id="other-cpu-other-class"),
        pytest.param([[np.nan, 0], [0, 0]], "avx2", False, id="no-number"),
    ],
)
def test_logits_may_differ_by_the_tolerances_share_of_their_range(
    moved: list[list[float]], instruction_set: str, is_same: bool
) -> None:
    there = predictions(LOGITS + np.array(moved, np.float32), instruction_set)
    if is_same:
        _check_same(predictions(LOGITS), there, tolerance=1e-3)
    else:
        with pytest.raises(PackageError, match=f"onnxruntime 1 on {instruction_set}, was removed"):
            _check_same(predictions(LOGITS), there, tolerance=1e-3)
