"""A tiny ResNet that has learned the embedded digits, trained once per test run, and networks to train in a blink."""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.artifacts import Architecture, Checkpoint
from pipeline.data.batches import Batches
from pipeline.data.readers import Dataset, open_dataset, usual_preprocessing
from pipeline.models.checkpoint import save_network
from pipeline.models.resnet import build_resnet
from pipeline.models.zoo import residual
from pipeline.progress import Silent
from pipeline.training.loop import Training, seed_everything
from pipeline.training.loss import cross_entropy
from pipeline.workplace import Workplace
from targets.device.model.preprocess import Preprocessing


@cache
def digits() -> Dataset:
    """897 training images, 100 of the selection split, 800 of the gate."""
    return open_dataset("digits")


@cache
def preprocessing() -> Preprocessing:
    """At a quarter of the pixels: quick, and still easy to tell apart."""
    return usual_preprocessing("cifar", input_size=(16, 16))


@cache
def architecture() -> Architecture:
    return residual(depths=(1, 1, 1), stage_widths=(8, 16, 32), classes=digits().classes, input_size=(16, 16))


@cache
def trained() -> nn.Module:
    """Used by all; to be copied before it is changed."""
    seed_everything(0)
    network = build_resnet(architecture())
    Training(
        network=network,
        batches=Batches(digits().training, preprocessing(), batch_size=32, shuffle=True),
        epochs=3,
        learning_rate=0.1,
        loss=cross_entropy,
        mixed_precision=False,
        name="train",
    ).fit(Workplace(folder=Path(), progress=Silent()), selection=None)
    return network


def write_weights(path: Path) -> None:
    """As others save them: plain weights, without the constant shortcuts."""
    state = {name: value for name, value in trained().state_dict().items() if "downsample" not in name}
    save_file(state, path)


def write_checkpoint(folder: Path) -> Checkpoint:
    save_network(trained(), architecture(), folder)
    return Checkpoint(folder=folder)


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def is_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Recorded(Silent):
    """Says nothing and keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)
