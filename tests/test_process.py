import sys

import pytest

from pipeline.errors import ToolError
from pipeline.process import run
from pipeline.progress import Silent


class Listening(Silent):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def detail(self, text: str) -> None:
        self.heard.append(text)


def test_the_command_is_shown_and_its_output_returned() -> None:
    progress = Listening()
    assert run([sys.executable, "-c", "print('hello')"], progress=progress) == "hello\n"
    assert progress.heard == [f"+ {sys.executable} -c 'print('\"'\"'hello'\"'\"')'"]


def test_a_failure_carries_the_tail_of_the_output() -> None:
    with pytest.raises(ToolError, match=r"(?s)exit status 3:.*the reason"):
        run([sys.executable, "-c", "import sys; print('the reason', file=sys.stderr); sys.exit(3)"], progress=Silent())


def test_a_missing_program_is_named() -> None:
    with pytest.raises(ToolError, match="no-such-program could not be started"):
        run(["no-such-program"], progress=Silent())
