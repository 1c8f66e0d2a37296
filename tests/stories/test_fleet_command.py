"""`deploy build --device` as a user runs it: real hosts, a real network, real answers; and stopped with Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_hosts import Fleet, fleet
from fleet_senders import ROOT, deploy, left_behind

from pipeline.containers.engine import Engine
from pipeline.errors import DeviceError, HostUnreachable
from pipeline.report.document import Document, TargetSummary

pytestmark = [pytest.mark.docker, pytest.mark.long]
NAME = "test-fleet-command"
# Quick, not good; the margin is wide so that the verdict is known.
BUILD = (
    "build",
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
)


@pytest.fixture(scope="module")
def hosts(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with (
        fleet(("one", "two"), tmp_path_factory.mktemp("fleet"), base_image) as made,
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setenv("PATH", made.path)
        yield made


@pytest.fixture(scope="module")
def folder(hosts: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a trained `digits.safetensors`, and the hosts in `devices.toml`."""
    folder = tmp_path_factory.mktemp("build")
    code, _out, said = deploy(folder, "train", "--epochs", "4", "-o", "digits.safetensors")
    assert code == 0, said
    entries = [
        f'[devices.{host.name}]\naddress = "root@{host.address}"\ntarget = "cpu"\nfolder = "{host.work}"\n'
        "retries = 1\nmeasure = 1\n"
        for host in hosts.hosts
    ]
    (folder / "devices.toml").write_text("\n".join(entries))
    return folder


def summary(out: str) -> TargetSummary:
    (target,) = Document.model_validate_json(out).targets
    return target


def test_a_build_ends_on_the_devices(hosts: Fleet, folder: Path, base_image: str) -> None:
    one, two = hosts.hosts
    words = (*BUILD, "--base-image", base_image, "--devices", "devices.toml")
    two.cut()
    try:
        code, out, said = deploy(folder, *words, "--json")
    finally:
        two.mend()
    assert code == HostUnreachable.exit_code, said
    assert "warning: two" in said
    first, second = summary(out).devices or []
    assert (first.exit_code, second.exit_code) == (0, HostUnreachable.exit_code)
    assert first.verdict == "pass"
    assert first.proof is not None
    assert (folder / first.proof / "predictions.npz").is_file()
    assert one.docker("images", "--quiet", "--no-trunc", f"{NAME}:0.1.0-cpu") == first.image
    # The same again does what is missing alone, and a third time nothing.
    code, out, said = deploy(folder, *words, "--json")
    assert code == 0, said
    assert [each.done_before for each in summary(out).devices or []] == [True, False]
    code, out, said = deploy(folder, *words)
    assert code == 0, said
    assert "nothing to do: everything was built before" in said
    assert "proven before" in out


def test_an_image_without_its_base_says_how_to_bring_it(hosts: Fleet, folder: Path, base_image: str) -> None:
    """There is no registry, and the base has another name there than the one asked for."""
    one = hosts.hosts[0]
    one.docker("image", "tag", base_image, "kept:here")
    one.docker("image", "rm", base_image)
    try:
        words = (*BUILD, "--base-image", base_image, "--image-version", "0.2.0")
        code, _out, said = deploy(folder, *words, "--device", "one")
    finally:
        one.docker("image", "tag", "kept:here", base_image)
    assert code == DeviceError.exit_code, said
    assert f"docker save {base_image} | ssh root@{one.address} docker load" in said
    assert left_behind(one) == []


def test_ctrl_c_ends_the_work_here_and_it_is_gone_on_from(hosts: Fleet, folder: Path, base_image: str) -> None:
    one = hosts.hosts[0]
    text = (folder / "devices.toml").read_text()
    (folder / "slow.toml").write_text(text.replace("measure = 1", "measure = 15"))
    words = (
        *BUILD,
        "--base-image",
        base_image,
        "--image-version",
        "0.3.0",
        "--devices",
        "slow.toml",
        "--device",
        "one",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while not one.docker("ps", "--quiet") and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.1)
    (proof,) = one.docker("ps", "--quiet", "--no-trunc").split()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert one.docker("ps", "--quiet", "--no-trunc").split() == [proof]
    code, _out, said = deploy(folder, *words, "--json")
    assert code == 0, said
    assert left_behind(one) == []
