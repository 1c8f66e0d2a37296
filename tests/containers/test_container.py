"""Containers of the packaged image: without rights, ready only when proven, and gone whatever happens."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from containers_here import containers_of
from docker_proxy import Proxy
from repository import REPOSITORY
from tiny_package import Packaged

from pipeline.containers.container import created, is_orphan, output_of, owner, remove, remove_orphans, running
from pipeline.containers.engine import Engine, connect
from pipeline.errors import EngineMissing, PackageError
from pipeline.progress import Silent

PYTHON = "/opt/edge-deploy/bin/python"
HOLDING = """
import sys, time
from pipeline.containers.container import running
from pipeline.containers.engine import connect
from pipeline.cli.interrupt import raise_on_signals
from pipeline.progress import Silent
raise_on_signals()
with running(connect(), sys.argv[1], progress=Silent()):
    print("ready", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def holder(packaged: Packaged) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a container of the image."""
    command = [sys.executable, "-c", HOLDING, packaged.image.tag]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    with process:
        yield process
        process.kill()


def is_present(engine: Engine, name: str) -> bool:
    return name in [each.name for each in engine.client.containers.list(all=True, ignore_removed=True)]


def answer_of(engine: Engine, packaged: Packaged, code: str) -> object:
    return json.loads(output_of(engine, packaged.image.tag, [PYTHON, "-c", f"import json, os; {code}"]))


@pytest.mark.docker
def test_a_container_runs_as_nobody_in_particular(engine: Engine, packaged: Packaged) -> None:
    assert answer_of(engine, packaged, "print(json.dumps([os.getuid(), os.getgid(), os.getgroups()]))") == [
        10001,
        10001,
        [10001],
    ]


@pytest.mark.docker
def test_a_container_has_no_capability_and_can_get_none(engine: Engine, packaged: Packaged) -> None:
    code = "print(json.dumps(dict(line.split(':\\t') for line in open('/proc/self/status').read().splitlines())))"
    status = answer_of(engine, packaged, code)
    assert isinstance(status, dict)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


@pytest.mark.docker
def test_a_containers_root_is_read_only_even_for_root(engine: Engine, packaged: Packaged) -> None:
    code = "print(json.dumps([os.access(path, os.W_OK) for path in ('/', '/opt/edge-deploy/model', '/etc', '/tmp')]))"
    assert answer_of(engine, packaged, code) == [False, False, False, True]
    mounts = "print(json.dumps([line.split()[3] for line in open('/proc/mounts') if line.split()[1] == '/']))"
    found = answer_of(engine, packaged, mounts)
    assert isinstance(found, list)
    assert "ro" in found[0].split(",")


@pytest.mark.docker
def test_a_command_that_fails_is_quoted(engine: Engine, packaged: Packaged) -> None:
    with pytest.raises(PackageError, match=r"ended with status 3 in a container.*: said why"):
        output_of(
            engine, packaged.image.tag, [PYTHON, "-c", "import sys; print('said why', file=sys.stderr); sys.exit(3)"]
        )
    with pytest.raises(PackageError, match=r"could not run nothing-like-that in"):
        output_of(engine, packaged.image.tag, ["nothing-like-that"])
    assert containers_of(engine, os.getpid()) == []


@pytest.mark.docker
def test_the_container_is_gone_when_it_is_left_in_any_way(engine: Engine, packaged: Packaged) -> None:
    with running(engine, packaged.image.tag, progress=Silent()):
        assert len(containers_of(engine, os.getpid())) == 1
    assert containers_of(engine, os.getpid()) == []
    with pytest.raises(ZeroDivisionError), running(engine, packaged.image.tag, progress=Silent()):
        1 / 0  # noqa: B018
    assert containers_of(engine, os.getpid()) == []


@pytest.mark.docker
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_ready", [pytest.param(True, id="ready"), pytest.param(False, id="starting")])
def test_an_interrupt_leaves_no_container(
    engine: Engine, holder: subprocess.Popen[str], number: signal.Signals, is_ready: bool
) -> None:
    assert holder.stdout is not None
    if is_ready:
        assert holder.stdout.readline() == "ready\n"
    else:
        wait_for_container(engine, holder.pid)
    holder.send_signal(number)
    assert holder.wait(timeout=60) != 0
    assert containers_of(engine, holder.pid) == []


def wait_for_container(engine: Engine, process: int) -> None:
    deadline = time.monotonic() + 60
    while not containers_of(engine, process):
        assert time.monotonic() < deadline


@pytest.mark.docker
def test_a_killed_process_leaves_a_container_that_is_swept_a_living_one_keeps_its_own(
    engine: Engine, packaged: Packaged, holder: subprocess.Popen[str]
) -> None:
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    with running(engine, packaged.image.tag, progress=Silent()) as client:
        (left_over,) = containers_of(engine, holder.pid)
        assert left_over.name not in remove_orphans(engine)
        holder.kill()
        holder.wait()
        assert is_present(engine, str(left_over.name))
        assert left_over.name in remove_orphans(engine)
        assert containers_of(engine, holder.pid) == []
        assert client.readiness().is_ready


def test_only_a_process_of_this_machine_that_is_gone_leaves_an_orphan() -> None:
    ours = json.loads(owner())
    host, process, start = ours
    assert not is_orphan(json.dumps(ours))
    assert is_orphan(json.dumps([host, process, "an earlier start"]))
    assert not is_orphan(json.dumps(["elsewhere", process, "an earlier start"]))
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert is_orphan(json.dumps([host, gone.pid, start]))
    for nonsense in ("", "x", "5", "null", "[1, 2]"):
        assert not is_orphan(nonsense)


@pytest.mark.docker
def test_removing_what_is_gone_is_no_error(engine: Engine, packaged: Packaged) -> None:
    remove(engine, "edge-deploy-test-absent")
    with created(engine, packaged.image.tag) as container:
        container.remove()


@pytest.mark.docker
def test_an_image_that_is_not_ours_is_refused(engine: Engine, packaged: Packaged) -> None:
    with (
        pytest.raises(PackageError, match=r"not an image made by `deploy build`.*manifest\.json"),
        running(engine, packaged.base_image, progress=Silent()),
    ):
        pass
    assert containers_of(engine, os.getpid()) == []


@pytest.mark.docker
def test_an_engine_that_goes_away_is_missing_not_a_bug(
    engine: Engine, packaged: Packaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy() as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.address)
        through = connect()
        with (
            pytest.raises(EngineMissing, match="stopped responding when asked to remove the container"),
            running(through, packaged.image.tag, progress=Silent()),
        ):
            proxy.close()
        through.close()
    for left_over in containers_of(engine, os.getpid()):
        remove(engine, str(left_over.name))


@pytest.mark.docker
def test_an_engine_behind_ssh_is_refused_before_anything_starts(
    engine: Engine, packaged: Packaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://user@board")
    with (
        pytest.raises(PackageError, match=r"ssh://user@board is reached through SSH.*tcp://"),
        running(engine, packaged.image.tag, progress=Silent()),
    ):
        pass
    assert containers_of(engine, os.getpid()) == []


@pytest.mark.docker
def test_readiness_comes_after_the_golden_images(engine: Engine, packaged: Packaged) -> None:
    with running(engine, packaged.image.tag, progress=Silent()) as client:
        assert client.readiness().is_ready
        (container,) = containers_of(engine, os.getpid())
        messages = [json.loads(line)["message"] for line in container.logs().decode().splitlines()]
        assert messages.index("golden images match") < messages.index("ready")
