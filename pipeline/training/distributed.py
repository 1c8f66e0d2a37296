"""The processes of one training, and what they tell each other; a training by itself is the first of one.

Where there are several, each computes on its share of every batch, and gradients are averaged over all of them.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import ProcessLost


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """`rank` 0 keeps the state, judges epochs and speaks; the others only compute."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrapped(self, network: nn.Module) -> nn.Module:
        """`network`, whose gradients are averaged; all begin with the first one's weights and keep its statistics."""
        return network if self.world == 1 else DistributedDataParallel(network)

    def accumulating(self, wrapped: nn.Module, *, is_last: bool) -> AbstractContextManager[object]:
        """Where gradients of one micro-batch add up: they are averaged over all processes after the last one alone."""
        if is_last or not isinstance(wrapped, DistributedDataParallel):
            return nullcontext()
        return wrapped.no_sync()

    def told(self, value: object) -> object:
        """What the first one gives here, in all of them."""
        given = [value]
        if self.world > 1:
            dist.broadcast_object_list(given, src=0, device=self.device)
        return given[0]

    def summed(self, values: Sequence[float]) -> list[float]:
        """The sums over all of them."""
        if self.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return [float(value) for value in sums.tolist()]


ALONE = Ranks()


def is_torn(error: RuntimeError) -> bool:
    """Whether it says that another process has gone, or no longer answers."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


@contextmanager
def joined(rank: int, world: int, *, meeting: Path | None) -> Iterator[Ranks]:
    """Meet the others at the file `meeting`, or where `torchrun` says: by NCCL where there are GPUs, else by Gloo."""
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
        if meeting is None and is_torn(error):
            raise ProcessLost(
                f"process {rank + 1} of {world} has lost another one of this training, whose own output says why. "
                f"Finished epochs are kept: the same command goes on from there. ({str(error).splitlines()[0]})"
            ) from None
        raise
    finally:
        dist.destroy_process_group()


@contextmanager
def _on_this_machine() -> Iterator[None]:
    """Gloo and NCCL listen on the loopback interface: no other machine is let in, and no host name is looked up."""
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
