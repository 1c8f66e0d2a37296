"""The gate's look counter: different artifacts of one model on one gate set."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_artifact import write_tiny_artifact
from tiny_report import report

from pipeline.artifacts import AccuracyReport
from pipeline.errors import WorkspaceError
from pipeline.package.labels import PREFIX, image_labels
from pipeline.validate.gate_looks import Look, confidence_at, look, look_if_judged, looks_text
from pipeline.validate.packaging_rule import verdict_text

__all__ = ["report"]


def test_different_artifacts_are_counted_once_each(tmp_path: Path) -> None:
    file = tmp_path / ".deploy" / "looks.json"
    assert look_if_judged(file, model="m", gate="g", artifact="a") == Look(number=1, total=1)
    assert look(file, model="m", gate="g", artifact="a") == Look(number=1, total=1)
    assert look_if_judged(file, model="m", gate="g", artifact="b") == Look(number=2, total=2)
    assert look(file, model="m", gate="g", artifact="b") == Look(number=2, total=2)
    # Its number is its own: neither its bounds nor its image change because others were tried after it.
    assert look(file, model="m", gate="g", artifact="a") == Look(number=1, total=2)
    assert look_if_judged(file, model="m", gate="g", artifact="a") == Look(number=1, total=2)


def test_models_and_gates_are_counted_apart(tmp_path: Path) -> None:
    file = tmp_path / "looks.json"
    look(file, model="m", gate="g", artifact="a")
    look(file, model="m", gate="g", artifact="b")
    assert look(file, model="other", gate="g", artifact="a").number == 1
    assert look(file, model="m", gate="other", artifact="a").number == 1
    assert look(file, model="m", gate="g", artifact="c").number == 3


def test_looking_only_records_nothing(tmp_path: Path) -> None:
    look_if_judged(tmp_path / "looks.json", model="m", gate="g", artifact="a")
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


def test_of_many_tries_by_luck_a_twentieth_passes_in_all_however_many_they_are() -> None:
    assert confidence_at(20, is_corrected=False) == confidence_at(1, is_corrected=False) == 0.95
    spent = [1 - confidence_at(each, is_corrected=True) for each in range(1, 10_000)]
    assert sum(spent) == pytest.approx(0.05, abs=1e-5)
    assert sum(spent) < 0.05
    assert spent == sorted(spent, reverse=True)


def test_terminal_and_labels_say_the_how_manieth_artifact_it_is(tmp_path: Path, report: AccuracyReport) -> None:
    assert "judged on these images" not in verdict_text(report)
    third = replace(report, gate_looks=3, confidence=0.9958)
    assert "artifact number 3 of this model judged on these images" in verdict_text(third)
    labels = image_labels(write_tiny_artifact(tmp_path), third, name="a", version="1", base="b")
    assert (labels[f"{PREFIX}gate-looks"], labels[f"{PREFIX}confidence"]) == ("3", "0.9958")


def test_where_the_count_grows_it_is_said_what_it_does_to_a_proof() -> None:
    assert looks_text(Look(number=1, total=1), is_corrected=False) is None
    told = looks_text(Look(number=1, total=20), is_corrected=False) or ""
    assert "have judged 20 artifacts" in told
    assert "64% of this many independent tries pass at least once by chance" in told
    assert "correct_looks = true in [validate]" in told
    assert "99.99% confidence" in (looks_text(Look(number=20, total=20), is_corrected=True) or "")
