"""The state of a training as bytes: everything the next step depends on, and no code of the file's."""

import io
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.training.snapshot import UnusableSnapshot, restore, snapshot_of, tensors_of


class Noisy(nn.Module):
    """Draws numbers while it trains, and counts in a buffer that its state dict leaves out."""

    calls: Tensor

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.norm = nn.BatchNorm2d(channels)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        scale = random.random() + float(np.random.rand())
        out: Tensor = self.drop(self.norm(self.conv(images))).mean((2, 3)) * scale * self.calls
        return out


def sgd(network: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=True)


def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    # Channels last, so that gradients and momenta have other strides than the weights.
    images = torch.rand(4, 3, 8, 8).to(memory_format=torch.channels_last)
    optimizer.zero_grad()
    torch.autograd.backward(network(images).square().sum())
    optimizer.step()


def seeded() -> tuple[Noisy, torch.optim.SGD]:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    network = Noisy()
    return network, sgd(network)


def is_same(first: nn.Module, second: nn.Module) -> bool:
    one, other = tensors_of(first), tensors_of(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_steps_after_it_are_the_same_to_the_bit() -> None:
    network, optimizer = seeded()
    np.random.standard_normal()  # half a pair is drawn, which NumPy keeps for the next call
    for _ in range(3):
        step(network, optimizer)
    snapshot = snapshot_of(network, optimizer)
    for _ in range(3):
        step(network, optimizer)
    drawn = random.random(), float(np.random.standard_normal()), float(torch.rand(()))
    again, its_optimizer = seeded()
    restore(snapshot, again, its_optimizer)
    assert float(again.calls) == 3
    for _ in range(3):
        step(again, its_optimizer)
    assert is_same(network, again)
    assert (random.random(), float(np.random.standard_normal()), float(torch.rand(()))) == drawn


def test_strides_of_the_momenta_are_kept() -> None:
    network, optimizer = seeded()
    step(network, optimizer)
    before = [state["momentum_buffer"].stride() for state in optimizer.state.values()]
    again, its_optimizer = seeded()
    restore(snapshot_of(network, optimizer), again, its_optimizer)
    assert [state["momentum_buffer"].stride() for state in its_optimizer.state.values()] == before


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def unusable(what: str, tmp_path: Path) -> bytes:
    network, optimizer = seeded()
    step(network, optimizer)
    if what == "another network":
        other = Noisy(4)
        return snapshot_of(other, sgd(other))
    if what == "another optimizer":
        return snapshot_of(network, torch.optim.SGD([network.conv.weight], lr=0.1))
    buffer = io.BytesIO()
    found = torch.load(io.BytesIO(snapshot_of(network, optimizer)), weights_only=True)
    if what == "code":
        found["tensors"]["conv.weight"] = Evil(tmp_path / "ran")
    elif what == "a generator's state":
        found["generators"]["torch"] = torch.zeros(5, dtype=torch.uint8)
    elif what == "no part":
        del found["generators"]
    torch.save(found, buffer)
    return {"nothing": b"", "a pickle": pickle.dumps(Evil(tmp_path / "ran"), protocol=2)}.get(what, buffer.getvalue())


@pytest.mark.parametrize(
    "what",
    ["another network", "another optimizer", "code", "a pickle", "a generator's state", "no part", "nothing"],
)
def test_what_is_no_snapshot_of_this_training_changes_nothing_and_runs_nothing(what: str, tmp_path: Path) -> None:
    snapshot = unusable(what, tmp_path)
    network, optimizer = seeded()
    with pytest.raises(UnusableSnapshot, match=r"\w"):
        restore(snapshot, network, optimizer)
    assert not (tmp_path / "ran").exists()
    step(network, optimizer)
    untouched, its_optimizer = seeded()
    step(untouched, its_optimizer)
    assert is_same(network, untouched)
