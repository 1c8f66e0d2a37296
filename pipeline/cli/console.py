"""Display of progress on stderr: live bars on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from pipeline.progress import Advance, Progress
from pipeline.untrusted import printable

PLAIN_INTERVAL_S = 15.0
"""Between two plain lines of a long task, to keep logs short."""
RECENT_S, RECENT_STEPS = 60.0, 4
"""Window for the time left, whichever is longer: parts of a task take different times."""
REFRESHES_PER_S = 4
"""For live bars; each refresh takes CPU time from a process that may be timing something."""

Clock = Callable[[], float]


class Estimate:
    """Finished steps of a task, and the time left by its recent pace."""

    def __init__(self, total: int, *, now: float) -> None:
        self._total = total
        self._started = now
        self._samples = deque([(now, 0)])
        """Times and step counts: about one per second recently, and the one before."""

    @property
    def done(self) -> int:
        return self._samples[-1][1]

    def advance(self, steps: int, *, now: float) -> None:
        if steps <= 0:
            return
        sample = (now, self.done + steps)
        if len(self._samples) > 1 and now - self._samples[-2][0] < RECENT_S / 60:
            self._samples[-1] = sample
        else:
            self._samples.append(sample)
        while len(self._samples) > RECENT_STEPS + 1 and self._samples[1][0] <= now - RECENT_S:
            self._samples.popleft()

    def words(self, *, now: float) -> str:
        left = self.left_s(now=now)
        time = f"{now - self._started:.0f} s so far" if left is None else f"about {left:.0f} s left"
        return f"{self.done} of {self._total}, {time}"

    def left_s(self, *, now: float) -> float | None:
        """Return None before the first step and after the last."""
        (first, before), (last, done) = self._samples[0], self._samples[-1]
        if not before < done < self._total:
            return None
        per_step = (last - first) / (done - before)
        # If the current step takes longer than the earlier ones, the remaining steps still need their time.
        return max((self._total - done) * per_step - (now - last), (self._total - done - 1) * per_step)


class Terminal:
    """Progress on a terminal: lines above, live bars below."""

    def __init__(self, console: Console, *, is_verbose: bool) -> None:
        self._console = console
        self._is_verbose = is_verbose

    def line(self, text: str) -> None:
        self._console.print(printable(text), markup=False, highlight=False)

    def detail(self, text: str) -> None:
        if self._is_verbose:
            self._console.print(printable(text), markup=False, highlight=False, style="dim")

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        estimate = Estimate(total, now=time.monotonic())
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<24}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            _TimeLeft(estimate),
            TextColumn("{task.fields[note]}", markup=False),
        )
        bars = Bars(*columns, console=self._console, transient=True, refresh_per_second=REFRESHES_PER_S)
        with bars:
            task = bars.add_task(name, total=total, note="")

            def advance(steps: int = 1, *, note: str = "") -> None:
                estimate.advance(steps, now=time.monotonic())
                bars.update(task, advance=steps)
                if note:
                    bars.update(task, note=note)

            yield advance


class _TimeLeft(ProgressColumn):
    def __init__(self, estimate: Estimate) -> None:
        super().__init__()
        self._estimate = estimate

    def render(self, task: Task) -> Text:
        del task
        left = self._estimate.left_s(now=time.monotonic())
        return Text("-:--:--" if left is None else str(timedelta(seconds=round(left))), style="progress.remaining")


class Plain:
    """Progress in a log file or a pipe: one line at an interval."""

    def __init__(
        self, *, is_verbose: bool, interval_s: float = PLAIN_INTERVAL_S, clock: Clock = time.monotonic
    ) -> None:
        self._is_verbose = is_verbose
        self._interval_s, self._clock = interval_s, clock
        self._said = clock()
        """Time of the last line."""

    def line(self, text: str) -> None:
        self._said = self._clock()
        print(printable(text), file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        if self._is_verbose:
            self.line(text)

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        estimate, noted, ended = Estimate(total, now=self._clock()), "", threading.Event()

        def advance(steps: int = 1, *, note: str = "") -> None:
            nonlocal noted
            estimate.advance(steps, now=self._clock())
            noted = note or noted

        def tell() -> None:
            # Short tasks in a row are quiet too: the first line is printed when the last one is old enough.
            while not ended.wait(max(0.0, self._interval_s - (self._clock() - self._said))):
                self.line(f"{name}: {estimate.words(now=self._clock())}{noted and '  ' + noted}")

        # In its own thread, so that a step of several minutes still prints lines.
        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield advance
        finally:
            ended.set()
            teller.join()


def progress_for(*, is_verbose: bool) -> Progress:
    """Return live bars if stderr is a terminal, else plain lines."""
    console = Console(stderr=True)
    if console.is_terminal:
        return Terminal(console, is_verbose=is_verbose)
    return Plain(is_verbose=is_verbose)
