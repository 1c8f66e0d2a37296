"""Processes of one training and their communication; a training in one process has rank 0 of 1.

With several processes, each computes its share of every batch, and gradients are averaged over all of them.

This process starts the others on this machine and is the first of them.

The others get the training as a file and meet at a rendezvous file, so no free port is needed. If one ends early, the
training ends. They end with this process, however it ends: they read from a pipe that it holds open.
"""

import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import EXIT_CODES, DeployError, ProcessLost


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Rank 0 keeps the state, evaluates epochs and reports; the others only compute."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrap_model(self, network: nn.Module) -> nn.Module:
        """Return `network` with averaged gradients; all start from rank 0's weights and use its statistics."""
        return network if self.world == 1 else DistributedDataParallel(network)

    def accumulating(self, wrapped: nn.Module, *, is_last: bool) -> AbstractContextManager[object]:
        """Accumulate gradients of one micro-batch; they are averaged over all processes only after the last one."""
        if is_last or not isinstance(wrapped, DistributedDataParallel):
            return nullcontext()
        return wrapped.no_sync()

    def gather_from_rank0(self, value: object) -> object:
        """Return rank 0's value in all processes."""
        given = [value]
        if self.world > 1:
            dist.broadcast_object_list(given, src=0, device=self.device)
        return given[0]

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes."""
        if self.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return [float(value) for value in sums.tolist()]


ALONE = Ranks()


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether the error means that another process has ended or no longer responds."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


@contextmanager
def join_process_group(rank: int, world: int, *, meeting: Path | None) -> Iterator[Ranks]:
    """Meet the others at the file `meeting`, or as `torchrun` configures: NCCL with GPUs, else Gloo."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if meeting is None:
        dist.init_process_group(backend, rank=rank, world_size=world)
    else:
        with _on_this_machine():
            dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=world)
    try:
        yield Ranks(rank=rank, world=world, device=device)
    except RuntimeError as error:
        if meeting is None and is_lost_connection(error):
            raise ProcessLost(
                f"process {rank + 1} of {world} lost its connection to another process of this training, whose output "
                f"has the reason. Finished epochs are kept: run the same command to continue. "
                f"({str(error).splitlines()[0]})"
            ) from None
        raise
    finally:
        dist.destroy_process_group()


@contextmanager
def _on_this_machine() -> Iterator[None]:
    """Make Gloo and NCCL listen on the loopback interface: no access from other machines, no host name lookup."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    names = () if loopback is None else ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: str(loopback) for name in names})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


TRAINING, MEETING = "training", "meeting"
"""Files in the folder shared by the processes."""
LONGEST_END_S = 10.0
TAIL_LINES = 20


@contextmanager
def start_processes(training: object, processes: int) -> Iterator[Ranks]:
    """Start `processes` - 1 others on the picklable `training` as rank 0; the cores are divided among all.

    Raises the error of a failed process, or `ProcessLost` if one ended by itself.
    """
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="edge-deploy-") as name:
        folder = Path(name)
        (folder / TRAINING).write_bytes(pickle.dumps(training))
        torch.set_num_threads(max(1, threads // processes))
        others = [_start(folder, rank, processes) for rank in range(1, processes)]
        try:
            _wait_until_ready(others, folder)
            with join_process_group(0, processes, meeting=folder / MEETING) as ranks:
                try:
                    yield ranks
                except RuntimeError as error:
                    # This is only a lost connection; the process that ended has the reason.
                    lost = _lost(others, folder, within_s=LONGEST_END_S)
                    if lost is None and is_lost_connection(error):
                        lost = ProcessLost(f"a process of the training no longer responds: {error}".splitlines()[0])
                    if lost is None:
                        raise
                    raise lost from None
                except BaseException:
                    _stop(others)  # they wait for this process, which must not wait for them
                    raise
            _wait_for_the_end(others, folder)
        finally:
            _stop(others)
            torch.set_num_threads(threads)


def _start(folder: Path, rank: int, processes: int) -> subprocess.Popen[bytes]:
    threads = str(torch.get_num_threads())
    path = os.pathsep.join(
        entry or str(Path.cwd()) for entry in sys.path
    )  # the user's own network may be anywhere on the path
    with _error_file(folder, rank).open("wb") as said:
        return subprocess.Popen(
            # -P: ignore the working folder, where the user may have their own `pipeline`.
            [sys.executable, "-P", "-m", "pipeline.training.worker", str(folder), str(rank), str(processes)],
            env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C goes only to this process, which stops the others in order
        )


def ready(folder: Path, rank: int) -> Path:
    """Return the file by which a process reports that it has started."""
    return folder / f"ready-{rank}"


def _error_file(folder: Path, rank: int) -> Path:
    return folder / f"said-{rank}"


def _wait_until_ready(others: list[subprocess.Popen[bytes]], folder: Path) -> None:
    while not all(ready(folder, rank).exists() for rank in range(1, len(others) + 1)):
        lost = _lost(others, folder, within_s=0)
        if lost is not None:
            raise lost
        time.sleep(0.02)


def _wait_for_the_end(others: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Wait for the others, which have finished their steps when this process has."""
    for rank, other in enumerate(others, start=1):
        try:
            status = other.wait(LONGEST_END_S)
        except subprocess.TimeoutExpired:
            continue
        if status != 0:
            raise _error(rank, status, folder)


def _lost(others: list[subprocess.Popen[bytes]], folder: Path, *, within_s: float) -> DeployError | None:
    """Return the error of the first process that has ended, or ends within this time."""
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
    said = _error_file(folder, rank).read_text(errors="replace").strip()
    for kind in EXIT_CODES:
        if kind.exit_code == status:
            return kind(said.removeprefix("error: "))
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    tail = "\n".join(["", *said.splitlines()[-TAIL_LINES:]]) if said else ""
    return ProcessLost(
        f"process {rank + 1} of the training {how}, and the others were stopped. Finished epochs are kept: run the "
        f"same command to continue. If memory ran out, use fewer processes (--nproc).{tail}"
    )


def _stop(others: list[subprocess.Popen[bytes]]) -> None:
    for other in others:
        other.kill()
    for other in others:
        other.wait()
        if other.stdin is not None:
            other.stdin.close()
