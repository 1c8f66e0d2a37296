"""How progress looks: live bars on a terminal, plain lines elsewhere. Everything here goes to stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from pipeline.progress import Advance, Progress

# Plain lines tell of long work only now and then, so that a log stays readable.
PLAIN_INTERVAL_S = 15.0


class Terminal:
    """Progress on a terminal: lines above, live bars below."""

    def __init__(self, console: Console, *, is_verbose: bool) -> None:
        self._console = console
        self._is_verbose = is_verbose

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def detail(self, text: str) -> None:
        if self._is_verbose:
            self._console.print(text, markup=False, highlight=False, style="dim")

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<24}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Bars(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(name, total=total, note="")

            def advance(steps: int = 1, *, note: str = "") -> None:
                bars.update(task, advance=steps)
                if note:
                    bars.update(task, note=note)

            yield advance


class Plain:
    """Progress in a log file or a pipe: a line now and then, nothing that moves."""

    def __init__(self, *, is_verbose: bool) -> None:
        self._is_verbose = is_verbose

    def line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        if self._is_verbose:
            self.line(text)

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        started = last = time.monotonic()
        done = 0

        def advance(steps: int = 1, *, note: str = "") -> None:
            nonlocal done, last
            done += steps
            now = time.monotonic()
            if now - last >= PLAIN_INTERVAL_S and 0 < done < total:
                last = now
                left = (now - started) / done * (total - done)
                self.line(f"{name}: {done} of {total}, about {left:.0f} s left{'  ' + note if note else ''}")

        yield advance


def progress_for(*, is_verbose: bool) -> Progress:
    """Live bars if stderr is a terminal, else plain lines."""
    console = Console(stderr=True)
    if console.is_terminal:
        return Terminal(console, is_verbose=is_verbose)
    return Plain(is_verbose=is_verbose)
