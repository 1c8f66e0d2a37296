"""What a running stage may say: lines and counted tasks. The CLI decides how they look.

A task counts steps. Work that cannot know how many steps it is, such as a timing that runs again while the machine is
busy, reports shares of itself; whoever asked for it knows which portion of the task that is.
"""

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


def ignore(steps: int = 1, *, note: str = "") -> None:
    """An `Advance` for work that nobody watches."""
    del steps, note


class Report(Protocol):
    """How far a piece of work is that does not know which part of a task it is."""

    def __call__(self, share: float, *, note: str = "") -> None:
        """Move on by `share` of the work, which is 1 in all; `note` as in `Advance`."""


def unheard(share: float, *, note: str = "") -> None:
    """A `Report` that nobody hears."""
    del share, note


def _in_steps(advance: Advance, total: int) -> Report:
    """The report of a whole task of `total` steps; those that are done as a whole are told."""
    done, told = 0.0, 0

    def report(share: float, *, note: str = "") -> None:
        nonlocal done, told
        done += share
        # Shares such as thirds sum to a little less than one.
        steps = min(total, int(done * total + 1e-6)) - told
        told += steps
        if steps > 0 or note:
            advance(steps, note=note)

    return report


@contextmanager
def portion(report: Report, size: float, name: str = "") -> Iterator[Report]:
    """The report of a part that is the share `size` of the whole; what it has not told at its end is told then.

    `name` is a note that stands before each of its own.
    """
    told = 0.0

    def of_part(share: float, *, note: str = "") -> None:
        nonlocal told
        share = min(share, 1 - told)
        told += share
        report(share * size, note=f"{name}, {note}" if name and note else note)

    if name:
        report(0.0, note=name)
    yield of_part
    of_part(1 - told)


@contextmanager
def reporting(progress: Progress, name: str, total: int = 100) -> Iterator[Report]:
    """A task of `total` steps, as a report of the whole."""
    with progress.task(name, total) as advance, portion(_in_steps(advance, total), 1.0) as report:
        yield report


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
