from pathlib import Path

import pytest

from pipeline.package.build_context import DOCKERFILES
from targets import shipped as module
from targets.shipped import shipped

ROOT = Path(__file__).parents[2]


def test_a_checkout_ships_its_own_docker_folder() -> None:
    assert shipped("images.toml") == ROOT / "docker" / "images.toml"


def test_a_wheel_ships_the_copy_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGED", tmp_path)
    assert shipped("locks") == tmp_path / "locks"


@pytest.mark.parametrize("name", ["install.py", "images.toml", "locks", *DOCKERFILES.values()])
def test_what_is_asked_for_is_there(name: str) -> None:
    assert shipped(name).exists()
