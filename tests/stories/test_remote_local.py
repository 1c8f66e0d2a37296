"""`--device local`: this machine as a device. The same scripts by its own shell, and nothing of ssh."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import docker.errors
import pytest
from builds import ROOT, deploy
from local_device import connected, local

from pipeline.containers.engine import Engine
from pipeline.devices.inventory import LOCAL, Placement, choose_devices
from pipeline.devices.requirements import Needs, survey
from pipeline.errors import DeviceError, DeviceTimeout, DeviceUnfit, RecipeError
from pipeline.report.document import Document
from targets.target import find_target

NAME = "test-remote-local"


def test_scripts_run_here_with_their_arguments_and_streams(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "ssh").write_text("#!/bin/sh\necho called >&2\nexit 99\n")
    (tmp_path / "ssh").chmod(0o755)
    written = io.BytesIO()
    with connected(local()) as connection:
        assert connection.run("saying", 'printf %s "$1"', "a 'b' $c").stdout == "a 'b' $c"
        connection.run(
            "copying",
            "cat",
            feed=_write,
            into=lambda stream: written.writelines([stream.read()]),
        )
    assert written.getvalue() == b"there and back"


def _write(stream: IO[bytes]) -> None:
    stream.write(b"there and back")


def test_what_fails_or_takes_too_long_is_told(tmp_path: Path) -> None:
    with (
        connected(local()) as connection,
        pytest.raises(DeviceError, match=r"local: counting ended with status 7:\nno such luck"),
    ):
        connection.run("counting", "echo no such luck >&2; exit 7")
    with connected(local(timeout=1), seconds=1) as connection, pytest.raises(DeviceTimeout, match="while waiting"):
        connection.run("waiting", "sleep 30")


def test_it_is_of_the_one_target_that_is_built(tmp_path: Path) -> None:
    cpu = find_target("cpu")
    asked = Placement(names=(LOCAL,), file=None)
    assert choose_devices(asked, [cpu], beside=tmp_path) == {cpu: [local()]}
    with pytest.raises(RecipeError, match="--device local: which target is it"):
        choose_devices(asked, [cpu, find_target("gpu-ada")], beside=tmp_path)


def test_a_machine_without_the_targets_gpu_is_refused_before_anything_is_built(engine: Engine) -> None:
    """On one that has such a card this is no question."""
    device, target = local(), find_target("gpu-turing")
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA GPU")
    with connected(device) as connection, pytest.raises(DeviceUnfit, match="nvidia-smi shows no GPU"):
        survey(connection, device, target, base="base:1", needs=Needs(work=0, docker=0, base=0))


@pytest.fixture
def folder(engine: Engine, tmp_path: Path) -> Iterator[Path]:
    deploy("train", "--epochs", "3", "-o", "digits.safetensors", cwd=tmp_path)
    yield tmp_path
    with suppress(docker.errors.ImageNotFound):
        engine.client.images.remove(f"{NAME}:0.1.0-cpu", force=True)


@pytest.mark.docker
@pytest.mark.long
def test_an_image_is_built_proven_and_tagged_here(engine: Engine, folder: Path, base_image: str) -> None:
    words = ["build", "--target", "cpu", "--device", LOCAL, "--base-image", base_image, "--name", NAME, "--json"]
    words += ["--data", "digits", "--checkpoint", "digits.safetensors", "--qat-epochs", "0", "--max-drop", "5"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        # So that its files on "the device" are not those of whoever runs the tests.
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder / "home"), **_wheels()},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    (target,) = Document.model_validate_json(done.stdout).targets
    assert (target.proof, target.proven_on) == ("proven", [LOCAL])
    assert engine.id_of(f"{NAME}:0.1.0-cpu") is not None
    (place,) = (folder / ".deploy" / "artifacts").glob(f"*/devices/{LOCAL}")
    assert json.loads((place / "report.json").read_text())["place"] == "device"


def _wheels() -> dict[str, str]:
    """Those that are fetched already."""
    return {"XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))}
