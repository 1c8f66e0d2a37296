"""Ctrl-C and SIGTERM end a build in order: unfinished work is removed, containers stop, finished stages stay."""

import signal
from types import FrameType


class Interrupted(BaseException):
    """The user or the system asked us to stop. No `Exception`, so that nothing swallows it on the way out."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


def raise_on_signals() -> None:
    """From now on SIGINT and SIGTERM raise `Interrupted` in the main thread; a second one changes nothing."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    del frame
    # Cleaning up must not be interrupted half-way by an impatient second Ctrl-C.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)
