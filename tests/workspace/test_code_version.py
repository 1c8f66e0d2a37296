import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline
from pipeline.workspace import code_version as sources


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of our packages whose sources may be changed."""
    root = Path(pipeline.__file__).parent.parent
    for package in sources.PACKAGES:
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "_docker"))
    monkeypatch.setattr(sources, "_root", lambda: tmp_path)
    forget()
    yield tmp_path
    forget()


def extend(path: Path) -> None:
    path.write_text(path.read_text() + "\nX = 1\n")


def forget() -> None:
    for cached in vars(sources).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()


def digest(module: str) -> str:
    forget()
    return sources.code_version(module)


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


@pytest.mark.slow
def test_imports_inside_functions_count(copy: Path) -> None:
    before = digest("pipeline.prune.stage")
    extend(copy / "pipeline/prune/prune.py")
    assert digest("pipeline.prune.stage") != before


@pytest.mark.parametrize(
    ("old", "new", "is_same"),
    [
        pytest.param('"""Says."""', '"""Tells."""', True, id="docstring"),
        pytest.param('    """Says."""\n', "", True, id="no-docstring"),
        pytest.param('"""Of act."""', '"""Of it."""', True, id="docstring-of-an-attribute"),
        pytest.param("# Why.", "# Because.", True, id="comment"),
        pytest.param("    if x:\n", "\n    if x:  # else nothing\n", True, id="blank-line"),
        pytest.param('ValueError(f"{x} is wrong")', 'ValueError("wrong")', True, id="error"),
        pytest.param('line(f"done: {len(x)}")', 'line("ready")', True, id="line"),
        pytest.param('line(f"done: {len(x)}")', 'line(f"done: {change(x)}")', False, id="a-call-within-a-line"),
        pytest.param("return 1", "return 2", False, id="code"),
        pytest.param('name = "a"', 'name = "b"', False, id="a-text-that-is-used"),
        pytest.param("ValueError(f", "KeyError(f", False, id="another-error"),
    ],
)
def test_words_count_for_nothing(
    old: str, new: str, is_same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_root", lambda: tmp_path)
    module = tmp_path / "pipeline/said.py"
    module.parent.mkdir()
    text = (
        'LEAST = 1\n"""Of act."""\n# Why.\n'
        'def act(x, progress, name = "a"):\n    """Says."""\n    progress.line(f"done: {len(x)}")\n'
        '    if x:\n        raise ValueError(f"{x} is wrong")\n    return 1\n'
    )
    module.write_text(text)
    before = digest("pipeline.said")
    assert old in text
    module.write_text(text.replace(old, new))
    assert (digest("pipeline.said") == before) is is_same
    forget()
