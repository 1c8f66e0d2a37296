"""The gate's look counter: different artifacts of one model on one gate set."""

import json
from pathlib import Path

import pytest

from pipeline.errors import WorkspaceError
from pipeline.looks import look, looks_at


def test_different_artifacts_are_counted_once_each(tmp_path: Path) -> None:
    file = tmp_path / ".deploy" / "looks.json"
    assert looks_at(file, model="m", gate="g") == 0
    assert look(file, model="m", gate="g", artifact="a") == 1
    assert look(file, model="m", gate="g", artifact="b") == 2
    assert look(file, model="m", gate="g", artifact="a") == 2
    assert looks_at(file, model="m", gate="g") == 2


def test_models_and_gates_are_counted_apart(tmp_path: Path) -> None:
    file = tmp_path / "looks.json"
    look(file, model="m", gate="g", artifact="a")
    look(file, model="m", gate="g", artifact="b")
    assert look(file, model="other", gate="g", artifact="a") == 1
    assert look(file, model="m", gate="other", artifact="a") == 1
    assert looks_at(file, model="m", gate="g") == 2


def test_looking_only_records_nothing(tmp_path: Path) -> None:
    looks_at(tmp_path / "looks.json", model="m", gate="g")
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_replaced_at_once(tmp_path: Path) -> None:
    file = tmp_path / "looks.json"
    look(file, model="m", gate="g", artifact="a")
    old = file.stat().st_ino
    look(file, model="m", gate="g", artifact="b")
    assert file.stat().st_ino != old
    assert [path.name for path in tmp_path.iterdir()] == ["looks.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 1}', '{"schema": 1, "looks": []}', "null"])
def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path, text: str) -> None:
    file = tmp_path / "looks.json"
    file.write_text(text)
    with pytest.raises(WorkspaceError, match=r"looks\.json is damaged.*Remove it"):
        look(file, model="m", gate="g", artifact="a")


def test_another_schema_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "looks.json"
    file.write_text(json.dumps({"schema": 7, "looks": {}}))
    with pytest.raises(WorkspaceError, match="schema 7"):
        look(file, model="m", gate="g", artifact="a")
