"""`deploy build --target cpu-arm64` on whatever this machine is: on x86 the image is emulated (`make test-arm64`)."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from repository import REPOSITORY

from pipeline.containers.container import output_of, volumes_for
from pipeline.containers.engine import Engine
from pipeline.package.labels import PREFIX
from pipeline.report.document import Document, TargetSummary
from pipeline.validate.predictions import read_predictions
from targets.target import find_target

pytestmark = [pytest.mark.arm64, pytest.mark.docker, pytest.mark.timeout(3600)]
NAME = "arm64-test-build"
TAG = f"{NAME}:0.1.0-cpu-arm64"
PYTHON = "/opt/edge-deploy/bin/python"
IS_FOREIGN = platform.machine() not in ("aarch64", "arm64")
foreign = pytest.mark.skipif(not IS_FOREIGN, reason="this machine is an ARM one: nothing is emulated")
# Quick, not good; the margin is wide so that the verdict is known.
FAST = (
    "--data",
    "digits",
    "--checkpoint",
    "digits.safetensors",
    "--qat-epochs",
    "0",
    "--name",
    NAME,
    "--max-drop",
    "20",
    "--json",
)


def deploy(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def base(engine: Engine) -> str:
    """The tag of a 64-bit ARM base image, made where there is none."""
    script = [str(REPOSITORY / "scripts" / "base_image.sh"), "arm64"]
    return subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm64")
    deploy(folder, "train", "--epochs", "4", "-o", "digits.safetensors")
    return folder


@pytest.fixture(scope="module")
def built(folder: Path, base: str, engine: Engine) -> Iterator[TargetSummary]:
    done = deploy(folder, "build", "--target", "cpu-arm64", "--base-image", base, *FAST)
    (target,) = Document.model_validate_json(done.stdout).targets
    yield target
    for image in engine.client.images.list(name=NAME):
        engine.client.images.remove(str(image.id), force=True)


def asked(engine: Engine, command: list[str], environment: Mapping[str, str]) -> tuple[int, dict[str, object]]:
    """Exit status of the image with other arguments and another (emulated) CPU, and the JSON it prints."""
    with volumes_for(engine, TAG) as volumes:
        container = engine.client.containers.create(
            TAG, command, environment=dict(environment), network_mode="none", volumes=volumes
        )
        try:
            container.start()
            status = int(container.wait(timeout=600)["StatusCode"])
            found: dict[str, object] = json.loads(container.logs(stdout=True, stderr=False))
            return status, found
        finally:
            container.remove(force=True)


def test_the_base_image_is_arms(engine: Engine, base: str) -> None:
    assert engine.platform_of(base) == "linux/arm64"
    code = "import platform; print(platform.machine())"
    assert output_of(engine, base, ["python3", "-c", code]).strip() == "aarch64"


def test_the_document_says_where_it_was_proven_and_whose_latency_it_shows(built: TargetSummary) -> None:
    assert built.place == ("emulated" if IS_FOREIGN else "image")
    assert built.verdict == "pass"
    assert built.images == 800
    assert built.instruction_set in find_target("cpu-arm64").instruction_sets
    assert built.runtime is not None
    assert built.runtime.startswith("onnxruntime ")
    assert (built.float_nodes, built.timed_on_target) == (0, not IS_FOREIGN)
    if IS_FOREIGN:
        assert built.precision == "int8"
        assert built.timed_on == "linux/amd64"
        assert built.reason is not None
        assert "not timed on linux/arm64, as this host is linux/amd64" in built.reason


def test_the_image_is_arms_and_its_labels_are_of_its_own_gate(built: TargetSummary, engine: Engine) -> None:
    image = engine.client.images.get(TAG)
    assert image.attrs["Architecture"] == "arm64"
    assert image.labels[PREFIX + "place"] == built.place
    assert image.labels[PREFIX + "instruction-set"] == built.instruction_set
    assert image.labels[PREFIX + "drop-points"] == f"{built.drop_points:.3f}"


def test_published_are_the_answers_of_the_image(built: TargetSummary, folder: Path) -> None:
    assert built.artifact is not None
    published = folder / built.artifact
    report = json.loads((published / "report.json").read_text())
    answers = read_predictions(published / "predictions.npz")
    assert report["place"] == built.place
    assert report["instruction_set"] == answers.instruction_set == built.instruction_set
    assert len(answers.logits) == 800


def test_the_instruction_set_is_the_emulated_cpus_and_not_the_hosts(built: TargetSummary, engine: Engine) -> None:
    code = "from targets.device.model.cpu import instruction_sets; print(*instruction_sets())"
    found = output_of(engine, TAG, [PYTHON, "-c", code]).split()
    assert found[0] == built.instruction_set
    assert found[-1] == "neon"


@foreign
@pytest.mark.parametrize(
    ("cpu", "instruction_set"),
    [
        pytest.param("cortex-a72", "neon", id="Raspberry Pi 4"),
        pytest.param("neoverse-n1", "dotprod", id="like Raspberry Pi 5"),
    ],
)
def test_a_lesser_cpu_passes_by_the_golden_rule(
    built: TargetSummary, engine: Engine, cpu: str, instruction_set: str
) -> None:
    status, report = asked(engine, ["selftest"], {"QEMU_CPU": cpu})
    golden = report["golden"]
    assert (status, report["passed"], report["instruction_set"]) == (0, True, instruction_set)
    assert isinstance(golden, dict)
    assert golden["agreement"] >= 0.995
    assert f"on {instruction_set}, 99.5% must agree, because it was built on" in golden["reason"]


def test_the_image_can_be_validated_again(built: TargetSummary, folder: Path) -> None:
    report = json.loads(deploy(folder, "validate", TAG, "--max-drop", "20", "--json").stdout)
    assert report["place"] == built.place
    assert report["artifact_top1"] == built.artifact_top1
    assert report["drop_points"] == built.drop_points


def test_the_same_again_does_nothing(built: TargetSummary, folder: Path, base: str) -> None:
    done = deploy(folder, "build", "--target", "cpu-arm64", "--base-image", base, *FAST)
    (again,) = Document.model_validate_json(done.stdout).targets
    assert (again.image, again.place, again.drop_points) == (built.image, built.place, built.drop_points)
    assert "nothing to do" in done.stderr
