"""A real ResNet-50 of half width on real photos of 224 pixels, through the whole chain up to the gate."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pipeline.report.document import Document

ROOT = Path(__file__).parents[2]
LAYERS = 54
MAX_BYTES = 5 * 2**30

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """All of the gate's photos, and every fourth of those to train on."""
    folder = tmp_path_factory.mktemp("photos")
    with tarfile.open(data_root / "imagenette-224.tar") as archive:
        archive.extractall(folder, filter="data")
    root = folder / "imagenette-224"
    for number, photo in enumerate(sorted((root / "train").glob("*/*"))):
        if number % 4:
            photo.unlink()
    return root


def build(folder: Path, data: Path, checkpoint: Path, *options: str) -> tuple[Document, int]:
    """The document, and the largest resident memory of the process in bytes."""
    command = [sys.executable, "-m", "pipeline", "build", "--checkpoint", str(checkpoint), "--data", str(data)]
    with (folder / "document.json").open("wb") as document, (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--no-image", "--json", *options],
            cwd=folder,
            stdout=document,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, 10, 11), (folder / "log").read_text()
    return Document.model_validate_json((folder / "document.json").read_text()), usage.ru_maxrss * 1024


def test_it_is_int8_in_all_layers_and_as_accurate(photos: Path, data_root: Path, tmp_path: Path) -> None:
    checkpoint = data_root / "checkpoints/resnet50-thin-imagenette.pth"
    document, peak = build(tmp_path, photos, checkpoint, "--qat-epochs", "0")
    (target,) = document.targets
    assert (target.verdict, target.images) == ("pass", 3925)
    assert target.precision == "int8"
    assert (target.int8_nodes, target.float_nodes) == (LAYERS, 0)
    assert target.float_top1 is not None
    assert target.float_top1 > 0.955
    assert peak < MAX_BYTES
    exported = [json.loads(path.read_text()) for path in (tmp_path / ".deploy").glob("export/*/export.json")]
    written = {model["dialect"]: model["parity"] for each in exported for model in each["models"]}
    assert set(written) == {"float", "onnxruntime"}
    assert written["onnxruntime"]["tensors"] > LAYERS
    assert written["onnxruntime"]["largest_distance"] < 0.501


def test_pruning_recovery_and_training_on_the_grid_stay_in_their_memory(
    photos: Path, data_root: Path, tmp_path: Path
) -> None:
    """One epoch of each on a fourth of the photos; what comes out may fail the gate."""
    checkpoint = data_root / "checkpoints/resnet50-thin-imagenette.pth"
    document, peak = build(
        tmp_path, photos, checkpoint, "--macs", "0.8", "--epochs", "1", "--qat-epochs", "1", "--max-drop", "50"
    )
    (target,) = document.targets
    assert target.verdict == "pass"
    assert target.float_top1 is not None
    assert target.artifact_top1 is not None
    assert target.artifact_top1 > target.float_top1 - 0.2
    assert peak < MAX_BYTES
