"""`deploy` in a process of its own, and a folder in which a build is done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.report.document import Document

ROOT = Path(__file__).parents[2]


# Quick, not good: the chain is what is tested; the margin is wide so that the verdict is known.
FAST = ("--macs", "0.8", "--epochs", "1", "--qat-epochs", "1", "--max-drop", "30", "--no-image")


def deploy(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=500,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `digits.safetensors` in it, trained in seconds."""
    folder = tmp_path_factory.mktemp("trained")
    deploy("train", "--epochs", "3", "-o", "digits.safetensors", cwd=folder)
    return folder


@pytest.fixture(scope="session")
def built(trained: Path) -> Document:
    done = deploy("build", "--data", "digits", "--checkpoint", "digits.safetensors", *FAST, "--json", cwd=trained)
    return Document.model_validate_json(done.stdout)
