"""Processes on this machine that train together with this one, which is the first of them.

The others are started by this one with the training as a file, and meet it at a file: no port has to be free. One that
ends takes the training with it. They end with this process, however that ends: they read from a pipe that it holds.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.errors import EXIT_CODES, DeployError, ProcessLost
from pipeline.training.distributed import Ranks, is_torn, joined

TRAINING, MEETING = "training", "meeting"
"""Files in the folder that the processes share."""
LONGEST_END_S = 10.0
TAIL_LINES = 20


@contextmanager
def crew(training: object, processes: int) -> Iterator[Ranks]:
    """Start `processes` - 1 others on the picklable `training` and be the first; the cores are shared out among all.

    Raises what one of them has raised, or `ProcessLost` where one ended by itself.
    """
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="edge-deploy-") as name:
        folder = Path(name)
        (folder / TRAINING).write_bytes(pickle.dumps(training))
        torch.set_num_threads(max(1, threads // processes))
        others = [_start(folder, rank, processes) for rank in range(1, processes)]
        try:
            _wait_until_ready(others, folder)
            with joined(0, processes, meeting=folder / MEETING) as ranks:
                try:
                    yield ranks
                except RuntimeError as error:
                    # What a torn connection looks like from here; the reason is with the one that is gone.
                    lost = _lost(others, folder, within_s=LONGEST_END_S)
                    if lost is None and is_torn(error):
                        lost = ProcessLost(f"a process of the training no longer answers: {error}".splitlines()[0])
                    if lost is None:
                        raise
                    raise lost from None
                except BaseException:
                    _stop(others)  # they wait for this one, and this one must not wait for them
                    raise
            _wait_for_the_end(others, folder)
        finally:
            _stop(others)
            torch.set_num_threads(threads)


def _start(folder: Path, rank: int, processes: int) -> subprocess.Popen[bytes]:
    threads = str(torch.get_num_threads())
    path = os.pathsep.join(
        entry or str(Path.cwd()) for entry in sys.path
    )  # a user's own network may be anywhere on it
    with _said(folder, rank).open("wb") as said:
        return subprocess.Popen(
            # -P: not from the working folder, where the user may have a `pipeline` of their own.
            [sys.executable, "-P", "-m", "pipeline.training.worker", str(folder), str(rank), str(processes)],
            env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which ends them in order
        )


def ready(folder: Path, rank: int) -> Path:
    """The file by which a process says that it is there."""
    return folder / f"ready-{rank}"


def _said(folder: Path, rank: int) -> Path:
    return folder / f"said-{rank}"


def _wait_until_ready(others: list[subprocess.Popen[bytes]], folder: Path) -> None:
    while not all(ready(folder, rank).exists() for rank in range(1, len(others) + 1)):
        lost = _lost(others, folder, within_s=0)
        if lost is not None:
            raise lost
        time.sleep(0.02)


def _wait_for_the_end(others: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Each has done all its steps, or this one would not have; it only has to go."""
    for rank, other in enumerate(others, start=1):
        try:
            status = other.wait(LONGEST_END_S)
        except subprocess.TimeoutExpired:
            continue
        if status != 0:
            raise _error(rank, status, folder)


def _lost(others: list[subprocess.Popen[bytes]], folder: Path, *, within_s: float) -> DeployError | None:
    """The error of the first that has ended, or ends within this time."""
    deadline = time.monotonic() + within_s
    while True:
        for rank, other in enumerate(others, start=1):
            status = other.poll()
            if status not in (None, 0):
                return _error(rank, int(status or 0), folder)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.02)


def _error(rank: int, status: int, folder: Path) -> DeployError:
    said = _said(folder, rank).read_text(errors="replace").strip()
    for kind in EXIT_CODES:
        if kind.exit_code == status:
            return kind(said.removeprefix("error: "))
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    tail = "\n".join(["", *said.splitlines()[-TAIL_LINES:]]) if said else ""
    return ProcessLost(
        f"process {rank + 1} of the training {how}, and the others were stopped. Finished epochs are kept: the same "
        f"command goes on from there. Where memory ran out, take fewer processes (--nproc).{tail}"
    )


def _stop(others: list[subprocess.Popen[bytes]]) -> None:
    for other in others:
        other.kill()
    for other in others:
        other.wait()
        if other.stdin is not None:
            other.stdin.close()
