"""`deploy build` with an image, as a user runs it: a real engine, a real container, real answers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaged_images import layers

from pipeline.containers.container import OWNER
from pipeline.containers.engine import Engine
from pipeline.data.readers import open_dataset
from pipeline.report.document import Document, TargetSummary

pytestmark = [pytest.mark.docker, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
NAME = "test-build-image"
# Quick, not good; the margin is wide so that the verdict is known.
FAST = ("--data", "digits", "--checkpoint", "digits.safetensors", "--qat-epochs", "0", "--name", NAME)


def command(base_image: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", "build", *FAST, "--base-image", base_image, *arguments]


def deploy(arguments: list[str], cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == code, done.stderr
    return done


def summary(done: subprocess.CompletedProcess[str]) -> TargetSummary:
    (target,) = Document.model_validate_json(done.stdout).targets
    return target


def remove_images(engine: Engine) -> None:
    for image in engine.client.images.list(name=NAME):
        engine.client.images.remove(str(image.id), force=True)


@pytest.fixture(scope="module")
def folder(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With a trained `digits.safetensors` and one of the gate's digits in it."""
    folder = tmp_path_factory.mktemp("image")
    deploy([sys.executable, "-m", "pipeline", "train", "--epochs", "4", "-o", "digits.safetensors"], folder)
    (folder / "digit.png").write_bytes(open_dataset("digits").gate.encoded(0))
    yield folder
    remove_images(engine)


@pytest.fixture(scope="module")
def built(folder: Path, base_image: str) -> TargetSummary:
    return summary(deploy(command(base_image, "--max-drop", "20", "--json"), folder))


def test_the_document_names_an_image_that_is_there(built: TargetSummary, engine: Engine) -> None:
    assert built.image is not None
    assert built.image.tag == f"{NAME}:0.1.0-cpu"
    assert built.image.id == engine.id_of(built.image.tag)
    assert built.image.bytes == engine.bytes_of(built.image.tag)
    assert built.place == "image"
    assert built.verdict == "pass"


def test_a_build_leaves_no_container_behind(built: TargetSummary, engine: Engine) -> None:
    assert engine.client.containers.list(all=True, filters={"label": OWNER}) == []


def test_another_margin_builds_an_image_that_says_so_and_the_first_one_comes_back(
    built: TargetSummary, folder: Path, base_image: str, engine: Engine
) -> None:
    """The report in the image states the margin: nothing but the model's small layer is another one."""
    assert built.image is not None
    first = layers(engine, built.image.id)
    other = summary(deploy(command(base_image, "--max-drop", "25", "--json"), folder)).image
    assert other is not None
    assert other.tag == built.image.tag
    second = layers(engine, other.id)
    assert first[:-1] == second[:-1]
    assert first[-1] != second[-1]
    again = summary(deploy(command(base_image, "--max-drop", "20", "--json"), folder)).image
    assert again is not None
    assert layers(engine, again.id) == first


def test_the_same_build_again_builds_no_image(built: TargetSummary, folder: Path, base_image: str) -> None:
    deploy(command(base_image, "--max-drop", "20", "--json"), folder)
    done = deploy(command(base_image, "--max-drop", "20", "--json"), folder)
    assert "building the image" not in done.stderr


def test_an_image_that_the_engine_has_lost_is_built_again_and_nothing_else(
    built: TargetSummary, folder: Path, base_image: str, engine: Engine
) -> None:
    before = set((folder / ".deploy").glob("*/*/stage.json"))
    remove_images(engine)
    done = deploy(command(base_image, "--max-drop", "20", "--json"), folder)
    image = summary(done).image
    assert image is not None
    assert engine.id_of(image.tag) == image.id
    assert set((folder / ".deploy").glob("*/*/stage.json")) == before


def test_artifact_and_image_answer_alike(built: TargetSummary, folder: Path) -> None:
    answers = []
    for subject in (f".deploy/artifacts/{NAME}-0.1.0-cpu", f"{NAME}:0.1.0-cpu"):
        ask = [sys.executable, "-m", "pipeline", "predict", subject, "digit.png", "--top", "3", "--json"]
        answers.append(json.loads(deploy(ask, folder).stdout))
    assert [entry["class"] for entry in answers[0][0]["classes"]] == [c["class"] for c in answers[1][0]["classes"]]
    check = [sys.executable, "-m", "pipeline", "validate", f"{NAME}:0.1.0-cpu", "--max-drop", "20", "--json"]
    report = json.loads(deploy(check, folder).stdout)
    assert report["place"] == "image"
    assert report["artifact_top1"] == built.artifact_top1
    assert report["drop_points"] == built.drop_points


def test_packaging_writes_what_runs_the_image(built: TargetSummary, folder: Path, base_image: str) -> None:
    package = [word if word != "build" else "package" for word in command(base_image, "--max-drop", "20")]
    printed = deploy([*package, "--emit", "compose"], folder).stdout
    assert f'image: "{NAME}:0.1.0-cpu"' in printed
    done = deploy([*package, "--emit", "compose", "--output", "docker-compose.yml", "--json"], folder)
    assert (folder / "docker-compose.yml").read_text() == printed
    image = summary(done).image
    # Another test has had the image built anew, and the engine stamps the time on it: the tag alone is the same.
    assert image is not None
    assert built.image is not None
    assert image.tag == built.image.tag


@pytest.mark.long
def test_an_undecided_gate_builds_an_image_only_where_the_recipe_says_so(
    folder: Path, base_image: str, engine: Engine
) -> None:
    """Cut and not recovered it loses points; a margin between the bounds of the drop is neither held nor missed."""
    cut = ("--macs", "0.7", "--epochs", "0", "--image-version", "0.2.0", "--json")
    whole = summary(deploy(command(base_image, *cut, "--max-drop", "100", "--no-image"), folder))
    assert whole.drop_bounds_points is not None
    low, high = whole.drop_bounds_points
    assert high > max(low, 0)
    options = (*cut, "--max-drop", f"{(max(low, 0) + high) / 2:.3f}")
    stopped = deploy(command(base_image, *options), folder, code=11)
    assert summary(stopped).image is None
    assert "--undecided package" in stopped.stderr
    labelled = summary(deploy(command(base_image, *options, "--undecided", "package"), folder))
    assert labelled.verdict == "undecided"
    labels = engine.client.images.get(f"{NAME}:0.2.0-cpu").labels
    assert labels["dev.edge-deploy.verdict"] == "undecided"
    assert labels["dev.edge-deploy.place"] == "image"


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.long)])
def test_a_build_stopped_while_its_container_runs_ends_well_the_next_time(
    built: TargetSummary, folder: Path, base_image: str, engine: Engine, number: signal.Signals
) -> None:
    version = f"0.3.{int(number)}"
    arguments = command(base_image, "--max-drop", "20", "--image-version", version, "--json")
    process = subprocess.Popen(
        arguments,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while not engine.client.containers.list(filters={"label": OWNER}) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=60) in (130, -9)
    if number is signal.SIGINT:
        assert engine.client.containers.list(all=True, filters={"label": OWNER}) == []
    assert engine.id_of(f"{NAME}:{version}-cpu") is None
    image = summary(deploy(arguments, folder)).image
    assert image is not None
    assert engine.client.containers.list(all=True, filters={"label": OWNER}) == []
