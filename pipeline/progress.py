"""Progress of a running stage: lines and counted tasks. The CLI decides how they look.

A task counts steps. Work that does not know its number of steps, such as a timing that is repeated while the machine
is busy, reports shares of itself; the caller knows which portion of the task that is.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    def __call__(self, steps: int = 1, *, note: str = "") -> None:
        """Advance the task by `steps`; `note` is a short live text such as `loss 0.31  top-1 91.2 %`."""


class Progress(Protocol):
    def line(self, text: str) -> None:
        """Print one line for the user."""

    def detail(self, text: str) -> None:
        """Print one line only with `-v`, such as a command about to run."""

    def task(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """Open a task of `total` steps, shown with its remaining time."""


def ignore(steps: int = 1, *, note: str = "") -> None:
    """Do nothing: an `Advance` for work whose progress is not shown."""
    del steps, note


class Report(Protocol):
    """Progress of work that does not know which part of a task it is."""

    def __call__(self, share: float, *, note: str = "") -> None:
        """Advance by `share` of the work, whose total is 1; `note` as in `Advance`."""


def ignore_share(share: float, *, note: str = "") -> None:
    """Do nothing: a `Report` for work whose progress is not shown."""
    del share, note


def _report_in_steps(advance: Advance, total: int) -> Report:
    """Return a report that advances a task of `total` steps by whole steps."""
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
    """Open a part that is the share `size` of the whole; report any unreported rest when it ends.

    `name` is put before each of the part's notes.
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
    """Open a task of `total` steps as a report of the whole."""
    with progress.task(name, total) as advance, portion(_report_in_steps(advance, total), 1.0) as report:
        yield report


class Silent:
    """No output: for tests and for using the stages as a library."""

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
