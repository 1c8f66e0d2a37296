"""Run other programs: the command is logged first, a failure raises `ToolError`."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.errors import ToolError
from pipeline.progress import Progress

TAIL_LINES = 20


class Run(Protocol):
    """The signature of `run`, so that callers can be given another implementation."""

    def __call__(
        self, command: Sequence[str], *, progress: Progress, environment: Mapping[str, str] | None = None
    ) -> str: ...


def run(command: Sequence[str], *, progress: Progress, environment: Mapping[str, str] | None = None) -> str:
    """Run `command` and return its stdout; raise `ToolError` with the tail of its output if it fails."""
    progress.detail("+ " + shlex.join(command))
    try:
        done = subprocess.run(
            list(command),
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            env=None if environment is None else dict(environment),
        )
    except OSError as error:
        raise ToolError(f"{command[0]} could not be started: {error}. Is it installed and on PATH?") from None
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-TAIL_LINES:])
        raise ToolError(f"{shlex.join(command)}\nended with exit status {done.returncode}:\n{tail}")
    return done.stdout
