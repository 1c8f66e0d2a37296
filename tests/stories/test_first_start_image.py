"""An image of TensorRT from `deploy build` to `deploy collect`, in containers without rights, as a user has it.

On a base image without TensorRT it must live and say what it lacks. On one in which a stand-in computes with ONNX
Runtime it builds, proves, keeps and serves its "engine"; that shows our image around TensorRT, nothing of TensorRT.
"""

import json
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker.errors
import onnxruntime
import pytest
from builds import deploy
from docker.models.containers import Container
from tiny_cuda import library

from pipeline.containers.client import InferenceClient
from pipeline.containers.container import RIGHTS
from pipeline.containers.engine import Engine
from pipeline.data.readers import open_dataset
from pipeline.report.document import Document, TargetSummary
from pipeline.validate.predictions import read_predictions
from targets.device.model.manifest import read_manifest

__all__ = ["library"]
pytestmark = [pytest.mark.docker, pytest.mark.long]
TESTS = Path(__file__).parents[1] / "support"
NAME = "test-first-start"
VERSION = "11.1.0.106"
TARGET = "gpu-ada"
STAND_IN = f"import sys\nfrom stand_in_tensorrt import StandIn\nsys.modules['tensorrt'] = StandIn({VERSION!r})\n"
PACKAGES = ("onnxruntime", "onnx", "google", "ml_dtypes", "typing_extensions.py", "flatbuffers", "packaging")


@pytest.fixture(scope="module")
def stand_in_base(
    engine: Engine, base_image: str, library: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A base image with Python, the stand-in for TensorRT, what it computes with, and CUDA's library in C."""
    folder, site = tmp_path_factory.mktemp("base"), Path(onnxruntime.__file__).parent.parent
    if f"{sys.version_info.major}.{sys.version_info.minor}" != "3.11" or engine.platform != "linux/amd64":
        pytest.skip("the stand-in's packages are this Python's, and the base image has 3.11 for linux/amd64")
    for name in PACKAGES:
        copy = shutil.copytree if (site / name).is_dir() else shutil.copyfile
        copy(site / name, folder / "site" / name if copy is shutil.copytree else _in(folder / "site", name))
    shutil.copyfile(TESTS / "stand_in_tensorrt.py", folder / "site" / "stand_in_tensorrt.py")
    (folder / "site" / "tensorrt.py").write_text(STAND_IN)
    shutil.copyfile(library, folder / "libcudart.so.13")
    (folder / "Dockerfile").write_text(
        f"FROM {base_image}\nCOPY site /usr/lib/python3/dist-packages/\n"
        "COPY libcudart.so.13 /usr/lib/x86_64-linux-gnu/\n"
    )
    tag = f"{NAME}-base:{uuid.uuid4().hex[:8]}"
    engine.client.images.build(path=str(folder), tag=tag, network_mode="none", rm=True)
    yield tag
    engine.client.images.remove(tag, force=True)


def _in(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


@pytest.fixture(scope="module")
def folder(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("first-start")
    deploy("train", "--epochs", "3", "-o", "digits.safetensors", cwd=folder)
    (folder / "deploy.toml").write_text("[package]\nshard_images = 300\n")
    yield folder
    for image in engine.client.images.list(name=NAME):
        engine.client.images.remove(str(image.id), force=True)


def build(folder: Path, base: str) -> tuple[TargetSummary, str]:
    options = [
        "--data",
        "digits",
        "--checkpoint",
        "digits.safetensors",
        "--qat-epochs",
        "0",
        "--max-drop",
        "5",
        "--name",
        NAME,
    ]
    done = deploy("build", "--target", TARGET, "--base-image", base, *options, "--json", cwd=folder)
    (target,) = Document.model_validate_json(done.stdout).targets
    return target, done.stderr


@contextmanager
def started(engine: Engine, image: str, volume: str) -> Iterator[tuple[Container, int]]:
    """With no rights, a read-only file system and the volume alone to write to; the container and its port."""
    container = engine.client.containers.run(
        image,
        detach=True,
        ports={"8000/tcp": ("127.0.0.1", 0)},
        volumes={volume: {"bind": "/var/cache/edge-deploy", "mode": "rw"}},
        # As `deploy emit` gives the settings; the figures of a busy machine are of no interest here.
        environment={"MEASURE_SECONDS": "0"},
        **RIGHTS,
    )
    try:
        container.reload()
        yield container, int(container.attrs["NetworkSettings"]["Ports"]["8000/tcp"][0]["HostPort"])
    finally:
        container.remove(force=True, v=True)


@pytest.fixture
def volume(engine: Engine) -> Iterator[str]:
    name = f"{NAME}-{uuid.uuid4().hex[:8]}"
    engine.client.volumes.create(name)
    yield name
    with suppress(docker.errors.NotFound):
        engine.client.volumes.get(name).remove(force=True)


def wait_until_ready(client: InferenceClient, container: Container, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not (state := client.readiness()).is_ready:
        assert not state.has_failed, state.reason
        assert time.monotonic() < deadline, container.logs().decode()
        time.sleep(0.1)


def logged(container: Container) -> list[dict[str, Any]]:
    return [json.loads(line) for line in container.logs(stderr=False).decode().splitlines()]


def collect(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    return deploy("collect", *arguments, cwd=folder, code=code)


def test_without_tensorrt_the_image_lives_says_what_is_missing_and_is_called_pending(
    engine: Engine, folder: Path, base_image: str
) -> None:
    target, said = build(folder, base_image)
    assert (target.proof, target.place, target.built) == ("pending", "simulated", "first-start")
    assert target.image is not None
    assert "the image starts, and reports what is missing here: TensorRT cannot be imported" in said
    assert "libcudart" in said
    labels = engine.client.images.get(target.image.id).labels
    assert (labels["dev.edge-deploy.proof"], labels["dev.edge-deploy.place"]) == ("pending", "simulated")
    left = engine.client.containers.list(all=True, filters={"ancestor": target.image.id})
    assert left == []


@pytest.mark.long
def test_where_an_engine_can_be_built_it_is_proven_collected_and_kept(
    engine: Engine, folder: Path, stand_in_base: str, volume: str
) -> None:
    target, _ = build(folder, stand_in_base)
    assert target.proof == "pending"
    assert target.image is not None
    assert target.artifact is not None
    manifest = read_manifest(folder / target.artifact)
    with started(engine, target.image.tag, volume) as (container, port):
        client = InferenceClient("127.0.0.1", port, manifest)
        wait_until_ready(client, container)
        assert client.runs_on()[0] == f"tensorrt {VERSION}"
        address = f"http://127.0.0.1:{port}"
        kept = json.loads(collect(folder, address, "--name", "orin-7", "--json").stdout)
        client.close()
    assert (kept["device"], kept["place"], kept["verdict"], kept["images"]) == ("orin-7", "device", "pass", 300)
    place = folder / kept["folder"]
    assert {path.name for path in place.iterdir()} >= {"report.json", "predictions.npz", "passport.json"}
    assert json.loads((place / "passport.json").read_text())["tensorrt"] == VERSION
    assert read_predictions(place / "predictions.npz").artifact_sha256 == manifest.model_sha256
    proven, _ = build(folder, stand_in_base)
    assert (proven.proof, proven.proven_on) == ("proven", ["orin-7"])
    assert "orin-7: pass" in deploy("status", cwd=folder).stdout
    with started(engine, target.image.tag, volume) as (container, port):
        client = InferenceClient("127.0.0.1", port, manifest)
        wait_until_ready(client, container)
        client.close()
        phases = [line["phase"] for line in logged(container) if line["message"] == "starting"]
    assert "build" not in phases
    assert "gate" not in phases


@pytest.mark.long
def test_what_cannot_be_collected_is_said_with_the_reason(
    engine: Engine, folder: Path, base_image: str, volume: str, tmp_path: Path
) -> None:
    target, _ = build(folder, base_image)
    assert target.image is not None
    with started(engine, target.image.tag, volume) as (_, port):
        client = InferenceClient("127.0.0.1", port, read_manifest(folder / str(target.artifact)))
        while not (state := client.readiness()).has_failed:
            assert not state.is_ready
            time.sleep(0.1)
        client.close()
        failed = collect(folder, f"http://127.0.0.1:{port}", code=25)
    assert "has no proof to collect" in failed.stderr
    assert "TensorRT cannot be imported" in failed.stderr
    gone = collect(folder, f"http://127.0.0.1:{port}", code=25)
    assert "does not respond" in gone.stderr
    assert "is not a server's address" in collect(folder, "orin.local", code=25).stderr


@pytest.mark.long
def test_a_model_that_was_built_elsewhere_is_not_taken_for_ours(
    engine: Engine, folder: Path, stand_in_base: str, volume: str, tmp_path: Path
) -> None:
    target, _ = build(folder, stand_in_base)
    assert target.image is not None
    with started(engine, target.image.tag, volume) as (container, port):
        client = InferenceClient("127.0.0.1", port, read_manifest(folder / str(target.artifact)))
        wait_until_ready(client, container)
        client.close()
        failed = collect(folder, f"http://127.0.0.1:{port}", "--workspace", str(tmp_path), code=25)
    assert "no artifact in" in failed.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_digits_of_the_gate_are_what_travels(folder: Path) -> None:
    """So that 300 of them are a share of each class."""
    assert len(open_dataset("digits").gate) == 800
