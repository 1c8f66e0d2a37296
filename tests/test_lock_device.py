"""The committed locks of the image's packages against what they were resolved from; resolving needs a network."""

import re
from pathlib import Path

import pytest
from script import load_script

from pipeline.bases import known_bases
from pipeline.wheels import find_lock

ROOT = Path(__file__).parent.parent


SCRIPT = load_script("scripts/lock_device.py")
LOCKS = [
    (platform.replace("-", "/"), python, grpc)
    for platform, each in SCRIPT.PYTHONS.items()
    for python in each
    for grpc in (False, True)
]


def versions(path: Path) -> dict[str, str]:
    return {
        name.lower().replace("_", "-"): version
        for name, version in re.findall(r"^([\w-]+)==(\S+)", path.read_text(), re.M)
    }


def asked_for(name: str = "requirements.in") -> set[str]:
    lines = (ROOT / "docker" / name).read_text().splitlines()
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


@pytest.mark.parametrize(("platform", "python", "grpc"), LOCKS)
def test_a_lock_holds_what_is_asked_for_in_the_versions_the_tests_run_with(
    platform: str, python: str, grpc: bool
) -> None:
    pins = find_lock(platform, python, grpc=grpc).pins
    assert {name.replace("_", "-") for name in asked_for()} <= set(pins)
    assert (asked_for("grpc.in") <= set(pins)) is grpc
    tested = versions(ROOT / "constraints.txt")
    assert {name: pin.version for name, pin in pins.items()} == {name: tested[name] for name in pins}
    assert all(pin.hashes for pin in pins.values())


@pytest.mark.parametrize(("platform", "python", "grpc"), LOCKS)
def test_a_lock_names_no_place_and_nothing_the_device_never_imports(platform: str, python: str, grpc: bool) -> None:
    lock = find_lock(platform, python, grpc=grpc)
    assert SCRIPT.FOREIGN.search(lock.path.read_text()) is None
    never = {*SCRIPT.NOT_AT_RUN_TIME, "torch", "setuptools", "pip"} - (asked_for("grpc.in") if grpc else set())
    assert not set(lock.pins) & never


@pytest.mark.parametrize(("platform", "python"), sorted({(platform, python) for platform, python, _ in LOCKS}))
def test_grpc_changes_nothing_else_in_an_image(platform: str, python: str) -> None:
    plain, more = find_lock(platform, python), find_lock(platform, python, grpc=True)
    assert set(more.pins) - set(plain.pins) == {"grpcio", "protobuf", "typing-extensions"}
    assert {name: more.pins[name] for name in plain.pins} == plain.pins
    assert more.key != plain.key


@pytest.mark.parametrize("line", ["--index-url https://x", "a @ file:///x", "-i x", "-f x", "--find-links y"])
def test_a_place_in_a_lock_is_noticed(line: str) -> None:
    assert SCRIPT.FOREIGN.search(f"a==1 \\\n    --hash=sha256:0\n{line}\n")


def test_there_is_a_lock_for_every_known_base_image_and_no_other_file() -> None:
    for base in known_bases().values():
        # Images with TensorRT carry another runtime, on Pythons that ONNX Runtime's wheels have left behind.
        if not base.tensorrt:
            assert find_lock(base.platform, base.python).pins
    written = {find_lock(platform, python, grpc=grpc).path for platform, python, grpc in LOCKS}
    assert {path for path in SCRIPT.LOCKS.rglob("*") if path.is_file()} == written
