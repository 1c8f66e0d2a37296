"""Save and restore everything a training's next step depends on: weights, statistics, optimizer, generators.

The order and augmentation of the images are not included: they follow from the seed and the epoch's number
(`pipeline.data.batches`). Random generators of a GPU are not saved; all training is on the CPU.
"""

import io
import pickle
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Errors of torch and the generators for unusable data.
DAMAGE = (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError, OSError)


class UnusableSnapshot(Exception):
    """The bytes are not a snapshot of such a network."""


def snapshot_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> bytes:
    """Return the snapshot, by `torch.save`, which keeps strides: kernels may round differently for other layouts."""
    tensors = {name: value.detach() for name, value in tensors_of(network).items()}
    buffer = io.BytesIO()
    torch.save({"tensors": tensors, "optimizer": optimizer.state_dict(), "generators": _generators()}, buffer)
    return buffer.getvalue()


def restore(snapshot: bytes, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restore the state in place, generators included, without running code from the snapshot.

    Raises `UnusableSnapshot` without changing anything.
    """
    before = optimizer.state_dict(), _generators()
    try:
        found = torch.load(io.BytesIO(snapshot), map_location="cpu", weights_only=True)
        tensors = found["tensors"]
        _check_shapes(tensors, network)
        optimizer.load_state_dict(found["optimizer"])
        _set_generators(found["generators"])
    except (*DAMAGE, pickle.UnpicklingError) as error:
        optimizer.load_state_dict(before[0])
        _set_generators(before[1])
        raise UnusableSnapshot(str(error).strip().split("\n")[0] or type(error).__name__) from None
    with torch.no_grad():
        for name, value in tensors_of(network).items():
            value.copy_(tensors[name])


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers, including non-persistent ones."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _generators() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }


def _set_generators(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])


def _check_shapes(tensors: Mapping[str, Any], network: nn.Module) -> None:
    wanted = {name: value.shape for name, value in tensors_of(network).items()}
    if wanted != {name: value.shape for name, value in tensors.items()}:
        raise ValueError("its tensors belong to another network")
