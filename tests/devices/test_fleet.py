"""Real devices: ssh servers and Docker engines in network namespaces, and all that can happen to them meanwhile."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_hosts import Fleet, fleet, make_key
from fleet_senders import Sender, deploy, device_of, left_behind, proven, tiny
from tiny_package import TinyPackage

from pipeline.containers.engine import Engine
from pipeline.errors import (
    AccessDenied,
    CommandMissing,
    DeployError,
    DeviceTimeout,
    DeviceUnfit,
    HostKeyRefused,
    HostUnreachable,
)

__all__ = ["tiny"]

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module")
def hosts(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two hosts, and ssh that reaches them."""
    with (
        fleet(("one", "two"), tmp_path_factory.mktemp("fleet"), base_image) as made,
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setenv("PATH", made.path)
        yield made


@pytest.mark.long
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
