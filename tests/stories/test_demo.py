"""`deploy demo`: the README's first command, up to a container that answers."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pipeline.cli.demo import CONTAINER
from pipeline.containers.engine import Engine

ROOT = Path(__file__).parents[2]
NAME = "digits-of-a-test"
OURS, TAG = f"{CONTAINER}-{NAME}", f"{NAME}:0.1.0-cpu"


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "demo", "--folder", "demo", "--name", NAME, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=500,
    )


@pytest.mark.long
@pytest.mark.docker
def test_the_demo_ends_in_a_container_that_answers(engine: Engine, base_image: str, tmp_path: Path) -> None:
    try:
        done = demo(tmp_path, "--base-image", base_image)
        assert done.returncode == 0, done.stderr
        assert f"the container {OURS} answers at http://" in done.stdout
        url = next(word for word in done.stdout.split() if word.startswith("http://")).rstrip(":")
        body = (tmp_path / "demo" / "request.json").read_bytes()
        with urllib.request.urlopen(f"{url}/v2/models/{NAME}/infer", body, timeout=30) as response:
            (output,) = json.load(response)["outputs"]
        logits = output["data"]
        assert f"is a {logits.index(max(logits))} (" in done.stdout
        again = demo(tmp_path, "--base-image", base_image)
        assert again.returncode == 0, again.stderr
        assert "nothing to do: everything was built before" in again.stderr
        (container,) = engine.client.containers.list(filters={"name": f"^/{OURS}$"})
        assert container.attrs["HostConfig"]["ReadonlyRootfs"]
    finally:
        for left in engine.client.containers.list(all=True, filters={"name": f"^/{OURS}$"}):
            left.remove(force=True)
        if engine.id_of(TAG) is not None:
            engine.client.images.remove(TAG, force=True)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("a file")
    done = demo(tmp_path, "--no-image")
    assert done.returncode == 3
    assert "Give another with --folder" in done.stderr
