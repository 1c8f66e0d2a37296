import io

import pytest
from rich.console import Console

from pipeline.console import Plain, Terminal


def test_plain_lines_go_to_stderr_alone(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Plain(is_verbose=False)
    progress.line("a line [brackets]")
    progress.detail("hidden")
    with progress.task("train", total=2) as advance:
        advance(note="loss 1")
        advance()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "a line [brackets]\n"


def test_long_work_is_told_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.console.PLAIN_INTERVAL_S", 0.0)
    with Plain(is_verbose=False).task("train", total=3) as advance:
        advance(note="loss 0.5")
    err = capsys.readouterr().err
    assert err.startswith("train: 1 of 3, about ")
    assert "loss 0.5" in err


def test_details_are_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    Plain(is_verbose=True).detail("+ docker build")
    assert capsys.readouterr().err == "+ docker build\n"


def test_a_terminal_shows_lines_as_they_are() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    progress = Terminal(console, is_verbose=False)
    with progress.task("quantize", total=10) as advance:
        advance(5, note="loss 0.1")
        progress.line("a [line]")
    assert isinstance(console.file, io.StringIO)
    assert "a [line]" in console.file.getvalue()
    assert "quantize" in console.file.getvalue()
