"""The committed locks of the image's packages against what they were resolved from; resolving needs a network."""

import re
from pathlib import Path

import pytest
from script import load_script

from pipeline.package.wheels import FOLDERS, Lock, find_lock
from targets.base_images import known_bases

ROOT = Path(__file__).parents[2]


SCRIPT = load_script("scripts/lock_device.py")
LOCKS = [(kind, platform.replace("-", "/"), python) for kind, platform, python in SCRIPT.locked()]
RUNTIMES = {kind: (runtime, grpc) for (runtime, grpc), kind in FOLDERS.items()}


def lock_of(kind: str, platform: str, python: str) -> Lock:
    runtime, grpc = RUNTIMES[kind]
    return find_lock(platform, python, runtime=runtime, grpc=grpc)


def versions(path: Path) -> dict[str, str]:
    return {
        name.lower().replace("_", "-"): version
        for name, version in re.findall(r"^([\w-]+)==(\S+)", path.read_text(), re.M)
    }


def asked_for(kind: str) -> set[str]:
    found = set()
    for name in SCRIPT.KINDS[kind]:
        lines = (ROOT / "docker" / name).read_text().splitlines()
        found |= {match[0] for line in lines if (match := re.match(r"[A-Za-z][\w-]*", line))}
    return found


@pytest.mark.parametrize(("kind", "platform", "python"), LOCKS)
def test_a_lock_holds_what_is_asked_for_and_no_more_than_that_needs(kind: str, platform: str, python: str) -> None:
    pins = lock_of(kind, platform, python).pins
    assert asked_for(kind) <= set(pins) <= asked_for(kind) | {"typing-extensions"}
    assert all(pin.hashes for pin in pins.values())


@pytest.mark.parametrize(("kind", "platform", "python"), [lock for lock in LOCKS if lock[2] not in ("3.8", "3.10")])
def test_versions_are_those_that_the_tests_run_with(kind: str, platform: str, python: str) -> None:
    tested = versions(ROOT / "constraints.txt")
    pins = lock_of(kind, platform, python).pins
    assert {name: pin.version for name, pin in pins.items()} == {name: tested[name] for name in pins}


def test_the_numpy_for_tensorrt_8_5_is_one_whose_names_it_knows() -> None:
    for kind in ("tensorrt", "tensorrt-grpc"):
        assert lock_of(kind, "linux/arm64", "3.8").pins["numpy"].version.startswith("1.23.")


@pytest.mark.parametrize(("kind", "platform", "python"), LOCKS)
def test_a_lock_names_no_place_and_nothing_the_device_never_imports(kind: str, platform: str, python: str) -> None:
    lock = lock_of(kind, platform, python)
    assert SCRIPT.FOREIGN.search(lock.path.read_text()) is None
    never = {*SCRIPT.NOT_AT_RUN_TIME, "torch", "setuptools", "pip"} - asked_for(kind)
    assert not set(lock.pins) & never


@pytest.mark.parametrize(("kind", "platform", "python"), [lock for lock in LOCKS if "grpc" not in lock[0]])
def test_grpc_changes_nothing_else_in_an_image(kind: str, platform: str, python: str) -> None:
    plain = lock_of(kind, platform, python)
    more = lock_of(f"{kind}-grpc".lstrip("-"), platform, python)
    assert set(more.pins) - set(plain.pins) - {"typing-extensions"} == {"grpcio", "protobuf"}
    assert {name: more.pins[name] for name in plain.pins} == plain.pins
    assert more.key != plain.key


@pytest.mark.parametrize("line", ["--index-url https://x", "a @ file:///x", "-i x", "-f x", "--find-links y"])
def test_a_place_in_a_lock_is_noticed(line: str) -> None:
    assert SCRIPT.FOREIGN.search(f"a==1 \\\n    --hash=sha256:0\n{line}\n")


def test_there_is_a_lock_for_every_known_base_image_and_no_other_file() -> None:
    for base in known_bases().values():
        for kind in ("tensorrt", "tensorrt-grpc") if base.tensorrt else FOLDERS.values():
            # Those without a TensorRT can carry the server of one, which then says what is missing.
            assert lock_of(kind, base.platform, base.python).pins
    written = {lock_of(*lock).path for lock in LOCKS}
    assert {path for path in SCRIPT.LOCKS.rglob("*") if path.is_file()} == written
