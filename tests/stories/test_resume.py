"""`kill -9` at random moments: nothing half-written is ever taken for finished, and the end is the same."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.workspace.hashing import sha256_of_file

ROOT = Path(__file__).parents[2]
OPTIONS = ("--macs", "0.8", "--epochs", "1", "--qat-epochs", "1", "--max-drop", "30", "--no-image")


def command(checkpoint: Path) -> list[str]:
    return [sys.executable, "-m", "pipeline", "build", "--data", "digits", "--checkpoint", str(checkpoint), *OPTIONS]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def results(folder: Path) -> dict[str, str]:
    """Content hashes of what a build ends in; latencies may differ, so the report is not among them."""
    (artifact,) = (folder / ".deploy" / "artifacts").iterdir()
    names = ("model.onnx", "manifest.json", "golden.npz", "shard.zip", "predictions.npz")
    return {name: sha256_of_file(artifact / name) for name in names}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "digits.safetensors"
    train = [sys.executable, "-m", "pipeline", "train", "--epochs", "2", "-o", str(path)]
    subprocess.run(train, env=environment(), check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def undisturbed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    folder = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    subprocess.run(command(checkpoint), cwd=folder, env=environment(), check=True, capture_output=True)
    return results(folder), time.monotonic() - started


def build_with_kills(folder: Path, checkpoint: Path, *, kills: int, seconds: float, seed: int) -> int:
    """Kill a build `kills` times at random moments, then let it end; returns how many kills hit a running build.

    One that ends before its kill says how fast this machine is now, and the next one begins anew.
    """
    moments = random.Random(seed)
    hit = 0
    for _ in range(kills):
        process = subprocess.Popen(
            command(checkpoint),
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started = time.monotonic()
        try:
            process.wait(timeout=moments.uniform(min(0.5, seconds / 2), seconds))
            seconds = min(seconds, time.monotonic() - started)
            shutil.rmtree(folder / ".deploy")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            hit += 1
        for record in (folder / ".deploy").glob("*/*/stage.json"):
            json.loads(record.read_text())
    subprocess.run(command(checkpoint), cwd=folder, env=environment(), check=True, capture_output=True)
    return hit


@pytest.mark.long
def test_a_killed_build_resumes_to_the_same_hashes(
    checkpoint: Path, undisturbed: tuple[dict[str, str], float], tmp_path: Path
) -> None:
    expected, seconds = undisturbed
    assert build_with_kills(tmp_path, checkpoint, kills=4, seconds=seconds * 0.6, seed=1) > 0
    assert results(tmp_path) == expected


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_fifty_kills(checkpoint: Path, undisturbed: tuple[dict[str, str], float], tmp_path: Path) -> None:
    expected, seconds = undisturbed
    hits = 0
    for round_number in range(10):
        folder = tmp_path / str(round_number)
        folder.mkdir()
        hits += build_with_kills(folder, checkpoint, kills=5, seconds=seconds * 0.8, seed=100 + round_number)
        assert results(folder) == expected
    assert hits >= 25
