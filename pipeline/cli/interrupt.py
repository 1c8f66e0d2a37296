"""Orderly end on Ctrl-C and SIGTERM: unfinished work is removed, containers stop, finished stages stay."""

import signal
from types import FrameType


class Interrupted(BaseException):
    """A request to stop by the user or the system. Not an `Exception`, so that no handler swallows it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


def raise_on_signals() -> None:
    """Make SIGINT and SIGTERM raise `Interrupted` in the main thread; later signals are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    del frame
    # A second Ctrl-C must not interrupt the cleanup.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)
