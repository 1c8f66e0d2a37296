"""The wheel as a user gets it: built from the sdist, unpacked elsewhere, used in an empty folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipeline import __version__

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, env=environment, timeout=300
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # Without options `build` makes the sdist first and the wheel out of it.
    done = run("-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = run(
        "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), str(wheel), cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return folder


def deploy(installed: Path, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """With the wheel's folder first on the path, so that this checkout is not the one that answers."""
    return run(
        "-m", "pipeline", *arguments, cwd=cwd, environment={**os.environ, "PYTHONPATH": str(installed), **environment}
    )


def test_the_wheel_holds_all_that_ships_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"pipeline", "targets", f"edge_deploy-{__version__}.dist-info"}
    for path in (ROOT / "docker").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert f"targets/_docker/{path.relative_to(ROOT / 'docker').as_posix()}" in names
    for path in (ROOT / "targets" / "catalogue").glob("*.toml"):
        assert f"targets/catalogue/{path.name}" in names
    for path in (ROOT / "docs" / "errors").glob("*.md"):
        assert f"pipeline/_errors/{path.name}" in names
    assert "targets/device/server/status.html" in names
    assert "pipeline/devices/preflight.sh" in names
    assert "pipeline/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_is_the_wheel_that_answers(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = run("-c", "import pipeline; print(pipeline.__file__)", cwd=tmp_path, environment=environment)
    assert done.stdout.startswith(str(installed))
    assert deploy(installed, "--version", cwd=tmp_path).stdout.strip() == f"deploy {__version__}"
    assert "cpu" in deploy(installed, "targets", cwd=tmp_path).stdout
    assert "## What to do" in deploy(installed, "explain", "GateUndecided", cwd=tmp_path).stdout


@pytest.mark.long
def test_the_whole_chain_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """Up to the build context, as no engine answers at that address: nothing of a checkout is needed."""
    trained = deploy(installed, "train", "--epochs", "3", "-o", "net.safetensors", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    options = (
        "--data",
        "digits",
        "--checkpoint",
        "net.safetensors",
        "--qat-epochs",
        "0",
        "--max-drop",
        "30",
        "--name",
        "digits",
    )
    done = deploy(installed, "build", *options, cwd=tmp_path, DOCKER_HOST="tcp://127.0.0.1:9")
    assert done.returncode == 12, done.stderr
    context = tmp_path / ".deploy" / "context" / "digits-0.1.0-cpu"
    assert f"docker build --network none --tag digits:0.1.0-cpu {context.relative_to(tmp_path)}" in done.stderr
    device = context / "device/opt/edge-deploy/device/targets/device"
    assert {path.name for path in context.iterdir()} == {
        "Dockerfile",
        "device",
        "install.py",
        "model",
        "surplus.txt",
        "wheels",
    }
    assert (device / "serve.py").is_file()
    assert (device / "server" / "status.html").read_bytes() == (
        ROOT / "targets/device/server/status.html"
    ).read_bytes()
    assert list((context / "wheels").glob("onnxruntime-*.whl"))
