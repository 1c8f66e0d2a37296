import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.workspace import code_version as sources


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of our packages whose sources may be changed."""
    root = Path(sources.__file__).parent.parent
    for package in sources.PACKAGES:
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "_docker"))
    monkeypatch.setattr(sources, "_root", lambda: tmp_path)
    forget()
    yield tmp_path
    forget()


def extend(path: Path) -> None:
    path.write_text(path.read_text() + "\nX = 1\n")


def forget() -> None:
    for cached in (sources.sources_digest, sources._imports, sources._exists, sources._path):
        cached.cache_clear()


def digest(module: str) -> str:
    forget()
    return sources.sources_digest(module)


def test_a_change_in_the_module_changes_its_digest(copy: Path) -> None:
    before = digest("pipeline.recipe")
    extend(copy / "pipeline/recipe.py")
    assert digest("pipeline.recipe") != before


def test_a_change_in_an_import_changes_the_digest(copy: Path) -> None:
    before = digest("pipeline.recipe")
    extend(copy / "pipeline/artifacts.py")
    assert digest("pipeline.recipe") != before


def test_a_change_elsewhere_changes_nothing(copy: Path) -> None:
    before = digest("pipeline.recipe")
    extend(copy / "pipeline/cli/app.py")
    assert digest("pipeline.recipe") == before


def test_a_reworded_error_changes_nothing(copy: Path) -> None:
    before = digest("pipeline.recipe")
    extend(copy / "pipeline/errors.py")
    assert digest("pipeline.recipe") == before


def test_imports_inside_functions_count(copy: Path) -> None:
    before = digest("pipeline.steps")
    extend(copy / "pipeline/prune/prune.py")
    assert digest("pipeline.steps") != before
