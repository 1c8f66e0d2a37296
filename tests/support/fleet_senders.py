"""The tiny artifact as a build sends it to devices, and what is left of that there."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fleet_hosts import Host
from tiny_package import TinyPackage, write_tiny_package

from pipeline.data.readers import open_dataset
from pipeline.devices.delivered import Delivered
from pipeline.devices.dispatch import dispatch
from pipeline.devices.inventory import Device
from pipeline.progress import Advance, Silent
from pipeline.recipe import Recipe
from pipeline.results import Judged, Validated
from pipeline.run import Run
from pipeline.workspace.store import Folder, Workspace
from targets.target import find_target

ROOT = Path(__file__).parents[2]


class Heard:
    """What is said of the work; `on` a phrase something is done, once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._lock = threading.Lock()
        self._hooks: list[tuple[str, Callable[[], None]]] = []

    def on(self, phrase: str, act: Callable[[], None]) -> None:
        self._hooks.append((phrase, act))

    def line(self, text: str) -> None:
        with self._lock:
            self.lines.append(text)
            due = [hook for hook in self._hooks if hook[0] in text]
            for hook in due:
                self._hooks.remove(hook)
        for _phrase, act in due:
            act()

    detail = line

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        with Silent().task(name, total) as advance:
            yield advance


def copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True)


class Sender:
    """The tiny artifact as a build hands it to `dispatch`."""

    def __init__(self, tiny: TinyPackage, root: Path, base_image: str, *, version: str = "0.1.0") -> None:
        self._tiny, self._root, self._base_image, self._version = tiny, root, base_image, version
        self.published = root / "published"

    def send(
        self, devices: Sequence[Device], heard: Heard | None = None, *, max_drop: float = 50.0
    ) -> list[Delivered]:
        recipe = Recipe.model_validate(
            {
                "name": "tiny",
                "version": self._version,
                "package": {"base_image": self._base_image},
                "validate": {"max_drop": max_drop},
            }
        )
        workspace = Workspace(self._root / ".deploy")
        stage = self._stage(workspace)
        run = Run(
            recipe=recipe,
            target=find_target("cpu"),
            dataset=open_dataset("digits"),
            workspace=workspace,
            progress=heard or Heard(),
        )
        report = replace(self._tiny.report, max_drop_points=max_drop)
        artifact = replace(self._tiny.artifact, folder=stage.path)
        main = Judged(artifact=artifact, answers=stage, report=report)
        return dispatch(run, devices, Validated(shard_folder=stage, models=(main,), published=self.published))

    def _stage(self, workspace: Workspace) -> Folder:
        key = workspace.key("compile", module="pipeline.compile.compile", inputs={}, options={})
        return workspace.obtain(key, lambda folder: copy(self._tiny.folder, folder))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyPackage:
    return write_tiny_package(tmp_path_factory.mktemp("tiny") / "artifact")


def device_of(host: Host, **changes: object) -> Device:
    made = Device(
        name=host.name,
        address=f"root@{host.address}",
        target="cpu",
        folder=str(host.work),
        retries=2,
        timeout=240.0,
        measure=1,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def left_behind(host: Host) -> list[str]:
    """Containers, untagged images that no tagged one is made of, and unfinished work."""
    containers = host.docker("ps", "--all", "--quiet").split()
    jobs = [str(path) for folder in ("jobs", "incoming") for path in (host.work / folder).glob("*")]
    return containers + jobs


def proven(done: Delivered) -> None:
    assert done.error is None, done.error
    assert done.report is not None
    assert done.report.place == "device"
    assert done.report.verdict == "pass"
    assert done.folder is not None
    assert {"delivery.json", "report.json", "predictions.npz"} <= {path.name for path in done.folder.iterdir()}


def deploy(folder: Path, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    return done.returncode, done.stdout, done.stderr
