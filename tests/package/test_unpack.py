"""Wheels as a folder: what an installer would put into site-packages, without what a server never opens."""

import zipfile
from pathlib import Path

import pytest

from pipeline.errors import PackageError
from pipeline.package.wheels import surplus, unpack_wheels


def wheel(folder: Path, name: str, *members: str) -> Path:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as archive:
        for member in members:
            archive.writestr(member, member)
    return folder / name


def unpacked(wheels: Path, folder: Path) -> set[str]:
    unpack_wheels(wheels, folder)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_libraries_of_the_data_folder_go_where_the_others_are_and_scripts_nowhere(tmp_path: Path) -> None:
    wheel(
        tmp_path / "wheels",
        "one-1.0-py3-none-any.whl",
        "one/__init__.py",
        "one-1.0.dist-info/RECORD",
        "one-1.0.data/purelib/two/__init__.py",
        "one-1.0.data/platlib/three.so",
        "one-1.0.data/scripts/one",
        "one-1.0.data/headers/one.h",
    )
    (tmp_path / "wheels" / "notes.txt").write_text("no wheel")
    found = unpacked(tmp_path / "wheels", tmp_path / "packages")
    assert found == {"one/__init__.py", "one-1.0.dist-info/RECORD", "two/__init__.py", "three.so"}
    assert (tmp_path / "packages" / "one" / "__init__.py").read_text() == "one/__init__.py"


def test_what_numpy_imports_at_once_stays_in_the_versions_that_do(tmp_path: Path) -> None:
    members = ("numpy/random/x.py", "numpy/fft/x.py", "numpy/core/x.py", "numpy/core/tests/x.py")
    wheel(tmp_path / "old", "numpy-1.23.5-cp38-cp38-x.whl", *members)
    wheel(tmp_path / "new", "numpy-2.2.6-cp310-cp310-x.whl", *members, "numpy/_core/x.py")
    old = unpacked(tmp_path / "old", tmp_path / "1")
    new = unpacked(tmp_path / "new", tmp_path / "2")
    assert {"numpy/random/x.py", "numpy/fft/x.py", "numpy/core/x.py"} == old
    assert {"numpy/core/x.py", "numpy/_core/x.py"} == new
    assert "numpy/random" in surplus(tmp_path / "2")


@pytest.mark.parametrize("member", ["../outside.py", "/outside.py", "one/../../outside.py"])
def test_nothing_is_written_outside(tmp_path: Path, member: str) -> None:
    wheel(tmp_path / "wheels", "one-1.0-py3-none-any.whl", member)
    with pytest.raises(PackageError, match=r"one-1\.0-py3-none-any\.whl cannot be unpacked: .* is outside of it"):
        unpack_wheels(tmp_path / "wheels", tmp_path / "packages")
    assert not list(tmp_path.rglob("outside.py"))


def test_a_damaged_wheel_is_named(tmp_path: Path) -> None:
    path = wheel(tmp_path / "wheels", "one-1.0-py3-none-any.whl", "one.py")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(PackageError, match=r"one-1\.0.*cannot be unpacked: .* Remove .* and run again"):
        unpack_wheels(tmp_path / "wheels", tmp_path / "packages")
