"""What happens to devices in the middle: links cut, hosts killed, disks filled. The others must not notice."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_hosts import Fleet, fleet
from fleet_senders import Heard, Sender, device_of, left_behind, proven
from tiny_package import TinyPackage, write_tiny_package

from pipeline.containers.engine import Engine
from pipeline.errors import ConnectionLost, DeviceDiskFull

pytestmark = [pytest.mark.docker, pytest.mark.long]


@pytest.fixture(scope="module")
def hosts(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three hosts, and ssh that reaches them."""
    names = ("one", "two", "three")
    with (
        fleet(names, tmp_path_factory.mktemp("fleet"), base_image) as made,
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setenv("PATH", made.path)
        yield made


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyPackage:
    return write_tiny_package(tmp_path_factory.mktemp("tiny") / "artifact")


def test_a_link_cut_in_mid_transfer_costs_that_device_alone(
    hosts: Fleet, tiny: TinyPackage, base_image: str, tmp_path: Path
) -> None:
    one = hosts.hosts[0]
    sender, heard = Sender(tiny, tmp_path, base_image), Heard()
    # At 40 Mbit/s some 60 MB take 12 s; cut after 4 of them.
    heard.on("one: + ssh root@" + one.address + ": sending", lambda: threading.Timer(4.0, one.cut).start())
    try:
        with one.slowed("40mbit"):
            cut, *others = sender.send([device_of(each) for each in hosts.hosts], heard)
    finally:
        one.mend()
    assert isinstance(cut.error, ConnectionLost), cut.error
    assert "while sending" in str(cut.error)
    assert any("Trying again" in line for line in heard.lines)
    for each in others:
        proven(each)
    # Whole files that had arrived are not sent again.
    arrived = len(list((one.work / "files").iterdir())) + len(list((one.work / "incoming").glob("*/*")))
    assert arrived > 10
    again = sender.send([device_of(each) for each in hosts.hosts])
    assert [each.was_done_before for each in again] == [False, True, True]
    proven(again[0])
    assert again[0].sent_files < others[0].sent_files
    assert left_behind(one) == []


def test_a_link_that_comes_back_in_mid_proof_finds_the_same_proof_going_on(
    hosts: Fleet, tiny: TinyPackage, base_image: str, tmp_path: Path
) -> None:
    one, two, _three = hosts.hosts
    sender, heard = Sender(tiny, tmp_path, base_image, version="0.2.0"), Heard()
    containers: list[str] = []

    def cut() -> None:
        containers.append(one.docker("ps", "--all", "--quiet", "--no-trunc"))
        one.cut()

    def look() -> None:
        containers.append(one.docker("ps", "--all", "--quiet", "--no-trunc"))

    heard.on("one: measuring the model", cut)
    heard.on("Trying again", one.mend)
    devices = [device_of(one, measure=12), device_of(two)]
    heard.on("one: proving", lambda: heard.on("one: proving", lambda: heard.on("measuring the model", look)))
    back, other = sender.send(devices, heard)
    proven(back)
    proven(other)
    assert len(containers) == 2
    assert containers[0] == containers[1] != ""
    assert left_behind(one) == []


def test_a_host_killed_in_mid_build_is_missed_by_nobody_and_goes_on_when_it_is_back(
    hosts: Fleet, tiny: TinyPackage, base_image: str, tmp_path: Path
) -> None:
    two = hosts.hosts[1]
    sender, heard = Sender(tiny, tmp_path, base_image, version="0.3.0"), Heard()
    # As on a new device: the build takes its time.
    two.docker("image", "prune", "--force")
    heard.on(f"two: + ssh root@{two.address}: building", lambda: threading.Timer(1.0, two.kill).start())
    devices = [device_of(each, measure=5) for each in hosts.hosts]
    first, dead, third = sender.send(devices, heard)
    assert isinstance(dead.error, ConnectionLost), dead.error
    assert "while building the image" in str(dead.error)
    proven(first)
    proven(third)
    assert not (sender.published / "devices" / "two").exists()
    two.start()
    again = sender.send(devices)
    assert [each.was_done_before for each in again] == [True, False, True]
    proven(again[1])
    assert again[1].sent_files == 0
    assert left_behind(two) == []


@pytest.mark.parametrize("moment", ["sending", "building the image"])
def test_a_full_disk_is_said_so_and_the_device_goes_on_once_there_is_room(
    hosts: Fleet, tiny: TinyPackage, base_image: str, tmp_path: Path, moment: str
) -> None:
    _one, two, three = hosts.hosts
    version = "0.4.0" if moment == "sending" else "0.4.1"
    sender, heard = Sender(tiny, tmp_path, base_image, version=version), Heard()
    # As on a new device: nothing is there to save space by.
    three.docker("image", "prune", "--force")
    for path in (three.work / "files").glob("*"):
        path.unlink()
    heard.on(f"three: + ssh root@{three.address}: {moment}", three.fill)
    full, other = sender.send([device_of(three), device_of(two)], heard)
    (three.disk / "ballast").unlink()
    assert isinstance(full.error, DeviceDiskFull), full.error
    assert "Free some space" in str(full.error)
    proven(other)
    assert three.docker("images", "--quiet", f"tiny:{version}-cpu") == ""
    proven(sender.send([device_of(three)])[0])
    assert left_behind(three) == []
