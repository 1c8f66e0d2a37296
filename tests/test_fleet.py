"""Real devices: ssh servers and Docker engines in network namespaces, and all that can happen to them meanwhile."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fleet_hosts import Fleet, Host, fleet, make_key
from tiny_package import TinyPackage, write_tiny_package

from pipeline.containers.engine import Engine
from pipeline.data.readers import open_dataset
from pipeline.devices.delivered import Delivered
from pipeline.devices.dispatch import dispatch
from pipeline.devices.inventory import Device
from pipeline.errors import (
    AccessDenied,
    CommandMissing,
    DeployError,
    DeviceTimeout,
    DeviceUnfit,
    HostKeyRefused,
    HostUnreachable,
)
from pipeline.progress import Advance, Silent
from pipeline.recipe import Recipe
from pipeline.results import Judged, Validated
from pipeline.run import Run
from pipeline.workspace.store import Folder, Workspace
from targets.target import find_target

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parent.parent


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
def hosts(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two hosts, and ssh that reaches them."""
    with (
        fleet(("one", "two"), tmp_path_factory.mktemp("fleet"), base_image) as made,
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setenv("PATH", made.path)
        yield made


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


def test_an_image_is_built_and_proven_on_two_devices_at_once(
    hosts: Fleet, tiny: TinyPackage, base_image: str, tmp_path: Path
) -> None:
    one, two = hosts.hosts
    sender = Sender(tiny, tmp_path, base_image)
    done = sender.send([device_of(one), device_of(two)])
    for host, each in zip((one, two), done, strict=True):
        proven(each)
        assert each.sent_files > 20
        assert host.docker("images", "--quiet", "--no-trunc", "tiny:0.1.0-cpu") == each.image
        label = '{{index .Config.Labels "dev.edge-deploy.place"}} {{index .Config.Labels "dev.edge-deploy.verdict"}}'
        assert host.docker("image", "inspect", "--format", label, "tiny:0.1.0-cpu") == "device pass"
        assert left_behind(host) == []
    facts = json.loads((sender.published / "devices" / "one" / "delivery.json").read_text())
    assert facts["facts"]["platform"] == "linux/amd64"
    assert facts["image"] == done[0].image
    again = sender.send([device_of(one), device_of(two)])
    assert [each.was_done_before for each in again] == [True, True]


@pytest.mark.long
def test_a_device_that_has_lost_its_image_is_done_again_and_one_that_is_away_is_believed(
    hosts: Fleet, tiny: TinyPackage, base_image: str, tmp_path: Path
) -> None:
    one, two = hosts.hosts
    sender = Sender(tiny, tmp_path, base_image, version="0.1.1")
    for each in sender.send([device_of(one), device_of(two)]):
        proven(each)
    two.docker("image", "rm", "--force", "tiny:0.1.1-cpu")
    one.cut()
    try:
        away, again = sender.send([device_of(one), device_of(two)])
    finally:
        one.mend()
    assert away.error is None
    assert away.was_done_before
    assert again.sent_files == 0
    assert not again.was_done_before
    proven(again)


@pytest.mark.long
def test_another_version_sends_what_differs_alone(
    hosts: Fleet, tiny: TinyPackage, base_image: str, tmp_path: Path
) -> None:
    one = hosts.hosts[0]
    proven(Sender(tiny, tmp_path / "a", base_image, version="0.2.0").send([device_of(one)])[0])
    second = Sender(tiny, tmp_path / "b", base_image, version="0.2.1").send([device_of(one)])[0]
    proven(second)
    assert 0 < second.sent_files <= 2
    assert second.sent_bytes < 20_000


@pytest.mark.long
def test_a_gate_that_says_no_leaves_no_image(hosts: Fleet, tiny: TinyPackage, base_image: str, tmp_path: Path) -> None:
    """Labels that the artifact cannot have right: the host's verdict counts, whatever the device says."""
    one = hosts.hosts[0]
    (refused,) = Sender(tiny, tmp_path, base_image, version="0.3.0").send([device_of(one)], max_drop=0.0)
    assert isinstance(refused.error, DeployError)
    assert refused.error.exit_code in (10, 11)
    assert one.docker("images", "--quiet", "tiny:0.3.0-cpu") == ""
    assert left_behind(one) == []


def test_each_failure_of_a_login_has_its_own_class(
    hosts: Fleet, tiny: TinyPackage, base_image: str, tmp_path: Path
) -> None:
    one, two = hosts.hosts
    make_key(tmp_path / "other")
    hosts.know({**hosts.own_keys, one.address: tmp_path / "other.pub"})
    sender = Sender(tiny, tmp_path, base_image, version="0.4.0")
    try:
        (changed,) = sender.send([device_of(one)])
        hosts.know({two.address: two.root / "hostkey.pub"})
        (unknown,) = sender.send([device_of(one)])
    finally:
        hosts.know(hosts.own_keys)
    assert isinstance(changed.error, HostKeyRefused)
    assert f"ssh-keygen -R {one.address}" in str(changed.error)
    assert isinstance(unknown.error, HostKeyRefused)
    assert "not known yet" in str(unknown.error)
    stranger, elsewhere, without, off = sender.send(
        [
            device_of(one, name="stranger", address=f"nobody@{one.address}"),
            device_of(one, name="elsewhere", port=2222, retries=1),
            device_of(one, name="without", docker=("no-such-docker",)),
            device_of(two, name="off", docker=("docker", "--host", "unix:///nowhere.sock")),
        ]
    )
    assert isinstance(stranger.error, AccessDenied)
    assert isinstance(elsewhere.error, HostUnreachable)
    assert isinstance(without.error, CommandMissing)
    assert "no-such-docker" in str(without.error)
    assert isinstance(off.error, DeviceUnfit)
    assert "systemctl start docker" in str(off.error)


@pytest.mark.long
def test_a_device_that_hangs_runs_into_its_own_time_out(
    hosts: Fleet, tiny: TinyPackage, base_image: str, tmp_path: Path
) -> None:
    one, two = hosts.hosts
    sender = Sender(tiny, tmp_path, base_image, version="0.5.0")
    with one.frozen_docker():
        started = time.monotonic()
        slow, fine = sender.send([device_of(one, timeout=4.0), device_of(two)])
    assert isinstance(slow.error, DeviceTimeout)
    assert slow.seconds < 8.0
    assert time.monotonic() - started < 120
    proven(fine)
    proven(sender.send([device_of(one)])[0])


def test_devices_are_checked_from_the_command_line(hosts: Fleet, tmp_path: Path) -> None:
    one, two = hosts.hosts
    (tmp_path / "devices.toml").write_text(
        f'[devices.one]\naddress = "root@{one.address}"\ntarget = "cpu"\nfolder = "{one.work}"\n'
        f'[devices.orin]\naddress = "root@{two.address}"\ntarget = "orin-jp61"\n'
        f'[devices.gone]\naddress = "root@{one.address}"\nport = 2222\ntarget = "cpu"\n'
    )
    code, out, said = deploy(tmp_path, "devices", "check", "one", "--json")
    (found,) = json.loads(out)
    assert code == 0, said
    assert found["facts"]["docker"]
    code, out, said = deploy(tmp_path, "devices", "check", "--json")
    assert [each["exit_code"] for each in json.loads(out)] == [0, DeviceUnfit.exit_code, HostUnreachable.exit_code]
    assert code in (DeviceUnfit.exit_code, HostUnreachable.exit_code)
    assert "linux/arm64" in said
    assert "Traceback" not in said


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
