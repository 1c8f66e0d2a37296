"""Read trained weights of any origin, and write a `Checkpoint` folder of plain data."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from pipeline.artifacts import Architecture, Checkpoint
from pipeline.errors import CheckpointError
from pipeline.models.checkpoint_file import read_state
from pipeline.models.cost import cost_of
from pipeline.models.custom import adopt, build_custom
from pipeline.models.recognition import State, recognize
from pipeline.models.resnet import build_resnet
from pipeline.models.weights_file import save_weights


def load_checkpoint(
    source: Path,
    *,
    factory: str | None,
    classes: tuple[str, ...],
    input_size: tuple[int, int] | None,
    folder: Path,
) -> None:
    """Read trained weights from `source` and write them to `folder` as a `Checkpoint`; see `recognize_and_save`."""
    recognize_and_save(
        read_state(source), source=source, factory=factory, classes=classes, input_size=input_size, folder=folder
    )


def recognize_and_save(
    state: State,
    *,
    source: Path,
    factory: str | None,
    classes: tuple[str, ...],
    input_size: tuple[int, int] | None,
    folder: Path,
) -> None:
    """Write trained weights, with names and values as in `source`, to `folder` as a `Checkpoint`.

    `factory` (`package.module:function`) makes a network that is not a recognizable ResNet.
    `classes` are the dataset's; empty: outputs are named by number. `input_size` is height, width; None: the
    usual size for the stem. Half precision becomes fp32. Raises `CheckpointError`.
    """
    try:
        if factory is not None:
            network, architecture = adopt(factory, state, classes=classes, input_size=input_size)
        else:
            architecture, named = recognize(state, classes=classes, input_size=input_size)
            network = build_resnet(architecture)
            network.load_state_dict(named, strict=False)  # only counters may be missing; `recognize` has checked
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error.__cause__
    save_network(network, architecture, folder)


def build_network(checkpoint: Checkpoint) -> nn.Module:
    """Return the float network of a `Checkpoint` folder, in evaluation mode."""
    architecture = checkpoint.architecture
    state = load_file(checkpoint.weights)
    if architecture.factory is not None:
        network = build_custom(architecture.factory, state)
    else:
        network = build_resnet(architecture)
        network.load_state_dict(state)
    return network.eval()


def save_network(network: nn.Module, architecture: Architecture, folder: Path) -> None:
    """Write `weights.safetensors`, `architecture.json` (widths taken from the network) and `cost.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    widths = {name: module.out_channels for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    architecture = replace(architecture, widths=widths)
    save_weights(network, folder / "weights.safetensors")
    (folder / "architecture.json").write_text(architecture.to_json())
    (folder / "cost.json").write_text(json.dumps(asdict(cost_of(network, architecture.input_shape)), indent=2))
