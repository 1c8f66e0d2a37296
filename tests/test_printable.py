"""What strangers named cannot move the cursor, hide a line or turn the direction of writing."""

import pytest

from pipeline.cli.console import Plain
from pipeline.cli.output import print_table
from pipeline.untrusted import on_one_line, printable

NASTY = "cat\x1b[2K\x1b]0;title\x07\rdog\u202etxt\x9b31m\ud800"


def test_control_characters_are_shown() -> None:
    shown = printable(NASTY)
    assert shown == r"cat\x1b[2K\x1b]0;title\x07\rdog\u202etxt\x9b31m\ud800"
    assert printable("Zürich 猫\n\tline") == "Zürich 猫\n\tline"
    assert on_one_line("a\nb\tc") == r"a\nb\tc"


def test_a_text_without_end_is_cut() -> None:
    assert len(printable("x" * 10**6)) < 3000
    assert "1,000,000 characters" in printable("x" * 10**6)


def test_lines_of_progress_and_tables_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    Plain(is_verbose=True).line(NASTY)
    print_table("", ("name",), [(NASTY,)])
    said = capsys.readouterr()
    assert "\x1b" not in said.err + said.out
    assert r"\x1b" in said.err
    assert r"\x1b" in said.out
