"""Trained weights come in, whatever they were saved by; a `Checkpoint` folder of plain data goes out."""

import argparse
import json
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.artifacts import Architecture, Checkpoint
from pipeline.cost import cost_of
from pipeline.errors import CheckpointError
from pipeline.factory import adopt, build_custom
from pipeline.naming import State, some
from pipeline.recognition import recognize
from pipeline.resnet import build_resnet

CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "module")
PICKLE = b"\x80"
FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")
NUMPY_SCALAR = cast(Callable[..., object], np.float64(0).__reduce__()[0])
# Containers of plain values that training scripts save beside the weights (torchvision's and timm's `args`, numpy's
# best accuracy); making one runs no code of the file's.
HARMLESS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    argparse.Namespace,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
]


def load_checkpoint(
    source: Path,
    *,
    factory: str | None,
    classes: tuple[str, ...],
    input_size: tuple[int, int] | None,
    folder: Path,
) -> None:
    """Read trained weights from `source` and write them to `folder` as a `Checkpoint`.

    `factory` (`package.module:function`) makes the network where it is not a ResNet that can be recognized.
    `classes` are the data set's; empty: outputs are named by number. `input_size` is height, width; None: what
    the stem was made for. Half precision becomes fp32. Raises `CheckpointError`.
    """
    state = read_state(source)
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
    """The float network of a `Checkpoint` folder, in evaluation mode."""
    architecture = checkpoint.architecture
    state = load_file(checkpoint.weights)
    if architecture.factory is not None:
        network = build_custom(architecture.factory, state)
    else:
        network = build_resnet(architecture)
        network.load_state_dict(state)
    return network.eval()


def save_network(network: nn.Module, architecture: Architecture, folder: Path) -> None:
    """Write `weights.safetensors`, `architecture.json` (widths read off the network) and `cost.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    widths = {name: module.out_channels for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    architecture = replace(architecture, widths=widths)
    weights = {name: value.detach().clone().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    (folder / "architecture.json").write_text(architecture.to_json())
    (folder / "cost.json").write_text(json.dumps(asdict(cost_of(network, architecture.input_shape)), indent=2))


def read_state(source: Path) -> State:
    """The network's tensors from a `.safetensors` file or whatever `torch.save` wrote, without running its code."""
    _check_file(source)
    if source.suffix == ".safetensors":
        try:
            return load_file(source)
        except SafetensorError as error:
            raise CheckpointError(f"{source} is damaged or not a safetensors file: {error}. Copy it again.") from None
    return _tensors(_unpickle(source), source)


def _check_file(source: Path) -> None:
    if source.is_dir():
        raise CheckpointError(f"{source} is a folder. Give the file with the trained weights in it.")
    try:
        with source.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {source}. Give the path of the trained weights.") from None
    except OSError as error:
        raise CheckpointError(f"the checkpoint {source} cannot be read: {error.strerror}.") from None
    if not start:
        raise CheckpointError(f"{source} is empty (0 bytes). Copy or save it again.")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{source} is a Git LFS pointer, not the weights. Fetch them with `git lfs pull`.")


def _unpickle(source: Path) -> object:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
            warnings.simplefilter("ignore")  # about old storage classes; nothing the user could act on
            loaded: object = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(source, str(error))) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError, OSError) as error:
        # What torch raises on files cut short or damaged differs with the place of the damage.
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{source} is a TorchScript archive, a program. Save the trained network's state_dict() instead."
            ) from None
        raise CheckpointError(f"{source} is cut short or damaged ({reason}). Copy or save it again.") from None
    return loaded


def _refusal(source: Path, message: str) -> str:
    cure = (
        "Refused: only plain weights are read. Where it was trained, save torch.save(model.state_dict(), …); for a "
        "network of your own give its factory with --model package.module:factory, too."
    )
    if forbidden := FORBIDDEN.search(message):
        return f"{source} wants to run code when it is loaded: it calls for {forbidden[1]}. {cure}"
    if "Unsupported operand" in message and source.read_bytes()[:1] == PICKLE:
        return f"{source} holds pickled objects of a kind that may run code when they are loaded. {cure}"
    return (
        f"{source} is not a checkpoint: neither safetensors nor written by torch.save, or it is damaged. "
        "Give a .pth, .pt, .th or .safetensors file."
    )


def _tensors(loaded: object, source: Path) -> State:
    """The tensors of the network inside what training code saved beside it: epoch, optimizer, averaged copies, …"""
    while isinstance(loaded, Mapping):
        inner = next((loaded[name] for name in CONTAINERS if isinstance(loaded.get(name), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{source} holds a {type(loaded).__name__}, not a state dict of named tensors.")
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = some(str(name) for name in loaded) or "nothing"
        raise CheckpointError(
            f"{source} holds no tensors by name (found: {keys}). Known containers: {', '.join(CONTAINERS)}."
        )
    return tensors
