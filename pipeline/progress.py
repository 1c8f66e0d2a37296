"""What a running stage may say: lines and counted tasks. The CLI decides how they look."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    def __call__(self, steps: int = 1, *, note: str = "") -> None:
        """Move the task on by `steps`; `note` is a short live text such as `loss 0.31  top-1 91.2 %`."""


class Progress(Protocol):
    def line(self, text: str) -> None:
        """One line for the user, printed once."""

    def detail(self, text: str) -> None:
        """One line for those who asked for details (`-v`), such as a command about to run."""

    def task(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """A counted piece of work of `total` steps, shown with its remaining time."""


class Silent:
    """Says nothing: for tests and for callers that use the stages as a library."""

    def line(self, text: str) -> None:
        del text

    def detail(self, text: str) -> None:
        del text

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        del name, total

        def advance(steps: int = 1, *, note: str = "") -> None:
            del steps, note

        yield advance
