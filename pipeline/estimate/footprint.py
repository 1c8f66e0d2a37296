"""Count the peak bytes of tensors of some work without computing anything.

The work runs on tensors with a shape and no values (PyTorch's fake tensors), so that tensors that autograd keeps for
the backward pass, and temporary ones, are counted when they are created. This takes seconds and almost no
memory for any network.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(work: Callable[..., object], *networks: nn.Module) -> int:
    """Return the peak bytes of tensors while `work` runs with copies of `networks`, which are counted, too.

    `work` gets the copies. If it reads a value, which no tensor has, it gets 1.
    """
    copies = [copy.deepcopy(network) for network in networks]
    with _quiet(), FakeTensorMode(allow_non_fake_inputs=True), _Count() as count:
        for network in copies:
            _empty(network)
        work(*copies)
    peak: int = count.peak
    return peak


def weight_bytes(network: nn.Module) -> int:
    """Return the bytes of parameters and buffers."""
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count of storages, updated when they are created and freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._now = 0
        self._alive: dict[int, ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        identity, size = storage._cdata, storage.nbytes()
        if identity in self._alive:
            return

        def freed(_: object) -> None:
            self._now -= size
            del self._alive[identity]

        self._alive[identity] = ref(storage, freed)
        self._now += size
        self.peak = max(self.peak, self._now)


def _empty(network: nn.Module) -> None:
    """Remove the values of a network, in place. It cannot be moved or copied afterwards."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.empty_like(parameter), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer)
    # Fake tensors support neither; here there is one device, and the caller counts copies.
    network.to = lambda *_args, **_options: network  # type: ignore[method-assign]
    network.__deepcopy__ = lambda _memo: network  # type: ignore[assignment]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide PyTorch's notes on its own internals."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
