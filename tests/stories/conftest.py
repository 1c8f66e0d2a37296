"""One finished build of the embedded digits, which many stories look at."""

from pathlib import Path

import pytest
from builds import FAST, deploy

from pipeline.report.document import Document


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
