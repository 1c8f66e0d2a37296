"""The float network's accuracy: of which images, and what it was held against."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import DataError, WorkspaceError
from pipeline.load.baseline import Baseline, read_baseline, read_gate_logits

FOUND = Baseline(gate_right=776, gate_images=846, selection_right=517, selection_images=518)


def test_the_headline_is_the_gate_and_what_was_trained_on_is_said() -> None:
    text = FOUND.text(None)
    assert text.startswith("float top-1 91.73% on the gate's 846 images; ")
    assert "--expect-accuracy" in text
    assert text.endswith("99.81% on 518 images of train/, which it may have been trained on")


def test_with_an_expected_accuracy_the_line_says_which_loss_would_be_seen() -> None:
    assert "91.70% expected: 846 images detect a loss of 2.1 points" in FOUND.text(0.917)


def test_less_than_expected_is_an_error() -> None:
    FOUND.check(None)
    FOUND.check(0.917)
    FOUND.check(0.93)
    with pytest.raises(DataError, match=r"95\.00% are expected"):
        FOUND.check(0.95)


def test_what_the_file_itself_states_counts_where_nobody_says_what_is_expected() -> None:
    stating = replace(FOUND, stated=0.9178, stated_as="best_prec1")
    assert "91.78% by best_prec1 in the file: 846 images detect a loss of 2.1 points" in stating.text(None)
    assert "best_prec1" not in stating.text(0.917)
    stating.check(None)
    wrong = replace(stating, gate_right=338)
    with pytest.raises(DataError, match=r"91\.78% are expected \(best_prec1 in the file.*--expect-accuracy"):
        wrong.check(None)
    wrong.check(0.4)


def test_damaged_files_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "baseline.json").write_text("{")
    with pytest.raises(WorkspaceError, match="Remove"):
        read_baseline(tmp_path)
    (tmp_path / "gate-logits.npy").write_bytes(b"")
    with pytest.raises(WorkspaceError, match="Remove"):
        read_gate_logits(tmp_path)
