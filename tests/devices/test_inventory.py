"""Devices as their user names them: `devices.toml`, and addresses on the command line."""

from pathlib import Path

import pytest

from pipeline.devices.inventory import Device, Placement, choose_devices, find_devices, parse_address, read_devices
from pipeline.errors import RecipeError
from targets.target import find_target

TWO = """
[devices.gate-1]
address = "admin@10.0.0.5"
target = "orin-jp61"
port = 2222
docker = "sudo docker"
timeout = 600

[devices.pi]
address = "pi.local"
target = "cpu"
folder = "/data/edge"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "devices.toml"
    path.write_text(text)
    return path


def test_a_file_says_all_of_a_device(tmp_path: Path) -> None:
    gate, pi = read_devices(write(tmp_path, TWO))
    assert gate == Device(
        name="gate-1",
        address="admin@10.0.0.5",
        target="orin-jp61",
        port=2222,
        docker=("sudo", "docker"),
        timeout=600.0,
    )
    assert gate.login == "-p 2222 admin@10.0.0.5"
    assert (pi.folder, pi.docker, pi.port) == ("/data/edge", ("docker",), None)


def test_a_target_file_lies_beside_the_devices_file(tmp_path: Path) -> None:
    text = TWO.replace('"orin-jp61"', '"boards/mine.toml"')
    assert read_devices(write(tmp_path, text))[0].target == str(tmp_path / "boards/mine.toml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("address =", "the_address ="), "devices.gate-1.the_address: unknown key. Did you mean address?"),
        (("[devices.pi]", "[device.pi]"), "device: unknown key. Did you mean devices?"),
        (('target = "cpu"', ""), "devices.pi.target is missing"),
        (("2222", "0"), "devices.gate-1.port = 0"),
        (("pi.local", "-oProxyCommand=reboot"), "is not user@host"),
        (("pi.local", "pi.local; reboot"), "is not user@host"),
        (("admin@10.0.0.5", "ssh://admin@10.0.0.5"), "give a port separately"),
        (("/data/edge", "/data/$(reboot)"), "devices.pi.folder"),
        (("/data/edge", "data"), "devices.pi.folder"),
        (("sudo docker", "docker; reboot"), "devices.gate-1.docker"),
        (("600", "0"), "devices.gate-1.timeout = 0"),
        (("[devices.pi]", "[devices.'../pi']"), "devices.../pi"),
        (("[devices.pi]", "[devices.pi"), "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(RecipeError) as raised:
        read_devices(write(tmp_path, TWO.replace(*change)))
    assert said in str(raised.value)
    assert "devices.toml" in str(raised.value)


def test_every_mistake_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="2 mistakes"):
        read_devices(write(tmp_path, TWO.replace("2222", "0").replace("600", "-1")))


def test_a_file_that_is_not_there_says_what_it_would_hold(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"\[devices.NAME\]"):
        read_devices(tmp_path / "devices.toml")


@pytest.mark.parametrize(
    ("text", "name", "address", "port"),
    [
        ("ssh://me@orin", "orin", "me@orin", None),
        ("ssh://orin.local:2222", "orin.local-2222", "orin.local", 2222),
        ("ssh://me@[fe80::1]:22", "fe80--1-22", "me@fe80::1", 22),
    ],
)
def test_addresses(text: str, name: str, address: str, port: int | None) -> None:
    found = parse_address(text)
    assert (found.name, found.address, found.port, found.target) == (name, address, port, None)


@pytest.mark.parametrize(
    "text",
    [
        "http://orin",
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://me:secret@orin",
        "ssh://orin/folder",
        "ssh://orin:99999",
        "ssh://a b",
        "ssh://orin?x",
        "ssh://999.999.999.999",
        "ssh://me@10.0.0.256:22",
        "ssh://1.2.3",
        "ssh://[::::]",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(RecipeError, match="nor an address such as"):
        parse_address(text)


@pytest.mark.parametrize("address", ["999.999.999.999", "me@300.1.1.1", "10.0.0"])
def test_a_file_with_an_address_that_cannot_be(tmp_path: Path, address: str) -> None:
    (tmp_path / "devices.toml").write_text(f'[devices.a]\naddress = "{address}"\ntarget = "cpu"\n')
    with pytest.raises(RecipeError, match="is not user@host"):
        read_devices(tmp_path / "devices.toml")


def test_devices_go_to_the_targets_they_are_of(tmp_path: Path) -> None:
    write(tmp_path, TWO)
    cpu, orin = find_target("cpu"), find_target("orin-jp61")
    found = choose_devices(Placement(names=("pi",), file=None), [cpu, orin], beside=tmp_path)
    assert [each.name for each in found[cpu]] == ["pi"]
    assert found[orin] == []
    all_of_it = choose_devices(Placement(names=(), file=tmp_path / "devices.toml"), [orin], beside=tmp_path)
    assert [each.name for each in all_of_it[orin]] == ["gate-1"]
    (given,) = choose_devices(Placement(names=("ssh://me@here",), file=None), [cpu], beside=tmp_path)[cpu]
    assert given.address == "me@here"


def test_a_device_twice_is_one(tmp_path: Path) -> None:
    write(tmp_path, TWO)
    cpu = find_target("cpu")
    assert len(choose_devices(Placement(names=("pi", "pi"), file=None), [cpu], beside=tmp_path)[cpu]) == 1


@pytest.mark.parametrize(
    ("names", "targets", "said"),
    [
        (("gate-1",), ("cpu",), "has the target orin-jp61, but the build is for cpu: add --target orin-jp61"),
        (("gate1",), ("cpu",), "Did you mean gate-1?"),
        (("ssh://me@here",), ("cpu", "orin-jp61"), "which target is it"),
        ((), ("xavier-jp51",), "no device has a target of this build (xavier-jp51)"),
    ],
)
def test_a_device_that_fits_no_target(
    tmp_path: Path, names: tuple[str, ...], targets: tuple[str, ...], said: str
) -> None:
    file = write(tmp_path, TWO)
    with pytest.raises(RecipeError) as raised:
        choose_devices(Placement(names=names, file=file), [find_target(name) for name in targets], beside=tmp_path)
    assert said in str(raised.value)


def test_a_name_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"does not exist\. Write one"):
        choose_devices(Placement(names=("pi",), file=None), [find_target("cpu")], beside=tmp_path)


def test_names_of_a_file(tmp_path: Path) -> None:
    file = write(tmp_path, TWO)
    assert [each.name for each in find_devices([], file)] == ["gate-1", "pi"]
    assert [each.name for each in find_devices(["pi"], file)] == ["pi"]
