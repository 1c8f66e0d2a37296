"""Wheels by hash: the real pip fetches tiny wheels from a folder; a damaged cache is noticed at every use."""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from pipeline.errors import PackageError, ToolError
from pipeline.package.wheels import HASH, Lock, Pin, default_cache, fetch_wheels, find_fault, find_lock, platform_tags
from pipeline.progress import Progress, Silent

NAMES = ("one", "other_two")


def write_wheel(folder: Path, name: str, *, body: str = "") -> Path:
    """The smallest wheel that pip takes for one."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", body)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, the only place pip looks into."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in NAMES:
        write_wheel(folder, name)
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def lock(index: Path, tmp_path: Path) -> Lock:
    path = tmp_path / "linux-amd64-cp311.txt"
    hashes = {name: sha256(index / f"{name}-1.0-py3-none-any.whl") for name in NAMES}
    path.write_text("".join(f"{name}==1.0 \\\n    --hash=sha256:{value}\n" for name, value in hashes.items()))
    pins = {name.replace("_", "-"): Pin(version="1.0", hashes=frozenset([value])) for name, value in hashes.items()}
    return Lock(path=path, platform="linux/amd64", python="3.11", pins=pins)


class Copying:
    """A door that brings the wheels of a folder, whatever is asked of it, and counts how often."""

    def __init__(self, index: Path) -> None:
        self.index = index
        self.calls = 0

    def __call__(
        self, command: Sequence[str], *, progress: Progress, environment: Mapping[str, str] | None = None
    ) -> str:
        self.calls += 1
        place = Path(command[command.index("--dest") + 1])
        for wheel in self.index.iterdir():
            shutil.copyfile(wheel, place / wheel.name)
        return ""


def test_pip_fetches_what_is_locked_and_the_cache_serves_it_from_then_on(
    lock: Lock, index: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    place = fetch_wheels(lock, cache=cache, progress=Silent())
    assert sorted(path.name for path in place.iterdir()) == sorted(path.name for path in index.iterdir())
    shutil.rmtree(index)
    assert fetch_wheels(lock, cache=cache, progress=Silent()) == place
    assert [path.name for path in cache.iterdir()] == [lock.key]


def test_pip_refuses_a_wheel_of_another_hash(lock: Lock, index: Path, tmp_path: Path) -> None:
    write_wheel(index, "one", body="evil = True")
    with pytest.raises(ToolError, match=r"(?s)could not be downloaded.*PIP_INDEX_URL.*DO NOT MATCH THE HASHES"):
        fetch_wheels(lock, cache=tmp_path / "cache", progress=Silent())
    assert list((tmp_path / "cache").iterdir()) == []


def tamper(place: Path) -> None:
    write_wheel(place, "one", body="evil = True")


def lose(place: Path) -> None:
    next(place.glob("other_two*")).unlink()


def add(place: Path) -> None:
    write_wheel(place, "third")


def leave_a_stray_file(place: Path) -> None:
    (place / "one-1.0.tar.gz").write_text("")


DAMAGES = pytest.mark.parametrize(
    ("damage", "fault"),
    [
        pytest.param(tamper, "one-1.0-py3-none-any.whl does not have a locked hash", id="tampered"),
        pytest.param(lose, "other-two missing", id="missing"),
        pytest.param(add, "third-1.0-py3-none-any.whl is not expected", id="surplus"),
        pytest.param(leave_a_stray_file, "one-1.0.tar.gz is not expected", id="no-wheel"),
    ],
)


@DAMAGES
def test_a_damaged_cache_is_fetched_again(
    lock: Lock, index: Path, tmp_path: Path, damage: Callable[[Path], None], fault: str
) -> None:
    door = Copying(index)
    place = fetch_wheels(lock, cache=tmp_path / "cache", progress=Silent(), door=door)
    damage(place)
    assert find_fault(place, lock) == fault
    assert fetch_wheels(lock, cache=tmp_path / "cache", progress=Silent(), door=door) == place
    assert find_fault(place, lock) is None
    assert door.calls == 2


def test_without_a_network_a_damaged_cache_is_a_clear_error(lock: Lock, index: Path, tmp_path: Path) -> None:
    place = fetch_wheels(lock, cache=tmp_path / "cache", progress=Silent(), door=Copying(index))
    tamper(place)
    shutil.rmtree(index)
    with pytest.raises(ToolError) as caught:
        fetch_wheels(lock, cache=tmp_path / "cache", progress=Silent())
    assert f"the cache {tmp_path / 'cache'} does not have them" in str(caught.value)
    assert "Connect to a package index" in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_fetch_that_brings_something_else_is_refused(lock: Lock, index: Path, tmp_path: Path) -> None:
    tamper(index)
    with pytest.raises(ToolError, match="pip downloaded other packages than linux-amd64-cp311"):
        fetch_wheels(lock, cache=tmp_path / "cache", progress=Silent(), door=Copying(index))
    assert list((tmp_path / "cache").iterdir()) == []


def test_pip_is_asked_for_the_images_platform_and_python_not_for_ours(index: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def door(command: Sequence[str], *, progress: Progress, environment: Mapping[str, str] | None = None) -> str:
        asked.extend(command)
        raise ToolError("no network")

    with pytest.raises(ToolError):
        fetch_wheels(find_lock("linux/arm64", "3.12"), cache=tmp_path, progress=Silent(), door=door)
    assert asked[asked.index("--python-version") + 1] == "3.12"
    assert asked[asked.index("--abi") + 1] == "cp312"
    assert {"manylinux_2_28_aarch64", "manylinux2014_aarch64"} < set(asked)
    assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} < set(asked)


def test_a_wheel_for_a_newer_glibc_than_debian_10_has_is_not_taken() -> None:
    assert platform_tags("linux/amd64")[0] == "manylinux_2_28_x86_64"


def test_without_pip_the_cure_is_named(lock: Lock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.package.wheels.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolError, match="ensurepip"):
        fetch_wheels(lock, cache=tmp_path / "cache", progress=Silent())


def test_a_lock_knows_its_pins_and_their_hashes() -> None:
    lock = find_lock("linux/amd64", "3.11")
    text = lock.path.read_text()
    assert {"httptools", "numpy", "onnxruntime", "orjson", "pillow", "prometheus-client"} <= set(lock.pins)
    assert sum(len(pin.hashes) for pin in lock.pins.values()) == len(HASH.findall(text))
    assert f"numpy=={lock.pins['numpy'].version} " in text


def test_locks_of_the_same_text_have_keys_of_their_own() -> None:
    keys = {find_lock(platform, "3.11").key for platform in ("linux/amd64", "linux/arm64")}
    assert len(keys) == 2


def test_a_python_that_is_not_locked_names_those_that_are() -> None:
    with pytest.raises(PackageError, match=r"Python 3\.9 on linux/arm64\..*linux/amd64 Python 3\.13.*--base-image"):
        find_lock("linux/arm64", "3.9")


def test_the_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "edge-deploy" / "wheels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "edge-deploy" / "wheels"
