"""Recognize the ResNet in a state dict by its names and shapes.

Properties that weights do not show are assumed: stride on a bottleneck's 3x3 convolution (as in torchvision), and for
parameter-free shortcuts zeros on both sides of the channels (see `models.resnet.constant_shortcut`). The float
accuracy measured after loading shows whether this is right.

Also maps the various tensor names of training code to torchvision's.
"""

import re
from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from pipeline.artifacts import Architecture
from pipeline.errors import CheckpointError
from pipeline.models.resnet import build_resnet, constant_shortcut
from pipeline.models.zoo import INPUT_SIZE, published_name

State = dict[str, Tensor]

CURE = "For your own network, give its factory with --model package.module:factory."

STEM = re.compile(r"^((?:.+\.)?)conv1\.weight$")
IN_BLOCK = re.compile(r"(^|\.)layer\d+\.\d+\.")
# Entries of state dicts that are not part of the network's function.
LEFTOVER = re.compile(r"^(?:criterion|loss\w*|metrics?|\w+_metrics?|\w+_acc(?:uracy)?)\.")
# Hugging Face transformers' ResNetForImageClassification, such as microsoft/resnet-50.
TRANSFORMERS = re.compile(r"(?:^|\.)embedder\.embedder\.convolution\.weight$")
TRANSFORMERS_STEM = re.compile(r"^(.*?)(?:resnet\.)?embedder\.embedder\.(convolution|normalization)\.")
TRANSFORMERS_BLOCK = re.compile(
    r"^(.*?)(?:resnet\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\.(layer\.\d+|shortcut)\.(convolution|normalization)\."
)


def torchvision_names(state: Mapping[str, Tensor]) -> State:
    """Return the tensors under torchvision's names: no wrapper prefixes, `shortcut` → `downsample`, head `fc`.

    Raises `CheckpointError` if there is no ResNet stem, more than one network, or not exactly one head.
    """
    if any(TRANSFORMERS.search(name) for name in state):
        state = {_from_transformers(name): value for name, value in state.items()}
    prefix = _prefix(state)
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    outside = {name: value for name, value in state.items() if not name.startswith(prefix)}
    named = inside | {name: value for name, value in outside.items() if not LEFTOVER.match(name)}
    named = {name.replace(".shortcut.", ".downsample."): value for name, value in named.items()}
    head = _head(named)
    return {
        "fc." + name.removeprefix(f"{head}.") if name.startswith(f"{head}.") else name: value
        for name, value in named.items()
    }


def some(names: Iterable[str], limit: int = 4) -> str:
    """Return the first `limit` names, and the number of the others, as text."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def count_text(things: Sized, one: str, many: str) -> str:
    """Return a count with the word in singular or plural: `1 tensor is`, `3 tensors are`."""
    return f"{len(things)} {one if len(things) == 1 else many}"


def _prefix(state: Mapping[str, Tensor]) -> str:
    stems = [match[1] for name in state if (match := STEM.match(name)) and not IN_BLOCK.search(match[1])]
    if not stems:
        raise CheckpointError(
            f"no ResNet in this file: there is no stem convolution conv1.weight among its {len(state)} tensors "
            f"({some(state)}). Stems of several convolutions (ResNet-C, -D) are not supported. {CURE}"
        )
    if len(stems) > 1 and all(re.search(r"\d", stem) for stem in stems):
        raise CheckpointError(
            f"the network's layout is unknown: {len(stems)} convolutions conv1, under "
            f"{some((repr(stem) for stem in stems), 3)}. Known are torchvision's names (layer1.0.conv1.weight) and "
            f"transformers'. {CURE}"
        )
    if len(stems) > 1:
        raise CheckpointError(
            f"{len(stems)} networks in this file, under {some(repr(stem) for stem in stems)}: "
            "keep the one to deploy, and save only its state dict."
        )
    return stems[0]


def _head(state: Mapping[str, Tensor]) -> str:
    heads = [name.removesuffix(".weight") for name, value in state.items() if _is_linear(name, value)]
    if len(heads) == 1:
        return heads[0]
    if not heads:
        raise CheckpointError(
            "no classifier in this file: a linear layer (fc, linear, head, …) is missing, as if only the backbone "
            "was saved. Save the state dict of the whole network."
        )
    raise CheckpointError(
        f"{len(heads)} linear layers in this file ({some(heads)}); a ResNet has exactly one, its head. {CURE}"
    )


def _is_linear(name: str, value: Tensor) -> bool:
    return name.endswith(".weight") and value.dim() == 2


def _from_transformers(name: str) -> str:
    if match := TRANSFORMERS_STEM.match(name):
        kind = "conv1" if match[2] == "convolution" else "bn1"
        return f"{match[1]}{kind}.{name[match.end() :]}"
    if match := TRANSFORMERS_BLOCK.match(name):
        is_convolution = match[5] == "convolution"
        if match[4] == "shortcut":
            layer = "downsample.0" if is_convolution else "downsample.1"
        else:
            layer = ("conv" if is_convolution else "bn") + str(int(match[4].removeprefix("layer.")) + 1)
        return f"{match[1]}layer{int(match[2]) + 1}.{match[3]}.{layer}.{name[match.end() :]}"
    return name


BLOCK = re.compile(r"^layer(\d+)\.(\d+)\.")
CONVOLUTION = re.compile(r"(?:^|\.)(?:conv\d|downsample\.0)\.weight$")
STEMS: dict[tuple[int, ...], Literal["imagenet", "cifar"]] = {(7, 7): "imagenet", (3, 3): "cifar"}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def recognize(
    state: Mapping[str, Tensor], *, classes: tuple[str, ...], input_size: tuple[int, int] | None
) -> tuple[Architecture, State]:
    """Return the architecture and its complete state dict: fp32, torchvision's names, constant shortcuts included.

    Without `classes`, the outputs are named by number. Without `input_size`, the usual size for the stem is used.
    Raises `CheckpointError` for anything but a ResNet whose tensors fit together and are finite.
    """
    named = torchvision_names(state)
    architecture = _structure(named)
    expected = _expected_names(architecture, named)
    check_names(expected, named)
    named = checked_values(named)
    _check_convolutions(named)
    height, width = input_size or INPUT_SIZE[architecture.stem]
    architecture = replace(
        architecture,
        groups=_groups(named) if architecture.block == "bottleneck" else 1,
        input_shape=(named["conv1.weight"].shape[1], height, width),
        classes=name_classes(classes, named["fc.weight"].shape[0]),
        widths={name.removesuffix(".weight"): value.shape[0] for name, value in named.items() if value.dim() == 4},
    )
    if architecture.shortcut == "A":
        architecture = _with_constant_shortcuts(architecture, named)
    _check_channels(architecture)
    check_shapes(_shapes(architecture), named)
    return replace(architecture, name=published_name(architecture)), named


def name_classes(classes: tuple[str, ...], outputs: int) -> tuple[str, ...]:
    """Return `classes`, checked against the number of the network's outputs; numbers if none are given."""
    if not classes:
        return tuple(str(index) for index in range(outputs))
    if len(classes) != outputs:
        raise CheckpointError(
            f"the network has {outputs} output classes, the dataset has {len(classes)} ({some(classes)}): "
            "give the dataset that the network was trained on, with all its classes."
        )
    return classes


def check_names(expected: frozenset[str], given: Mapping[str, Tensor], cure: str = CURE) -> None:
    """Raise `CheckpointError` for missing or extra tensors; counters of batch normalization are ignored."""
    names = {name for name in given if not name.endswith("num_batches_tracked")}
    missing, surplus = sorted(expected - names), sorted(names - expected)
    if not missing and not surplus:
        return
    parts = []
    if missing:
        parts.append(f"{count_text(missing, 'tensor is', 'tensors are')} missing ({some(missing)})")
    if surplus:
        parts.append(f"{count_text(surplus, 'tensor does', 'tensors do')} not belong to it ({some(surplus)})")
    raise CheckpointError(
        f"the checkpoint does not fit the network: {', and '.join(parts)}. "
        f"Save the whole state dict of the trained network. {cure}"
    )


def check_shapes(expected: Mapping[str, torch.Size], given: Mapping[str, Tensor], cure: str = CURE) -> None:
    """Raise `CheckpointError` if a tensor has another shape than the network needs."""
    wrong = [
        f"{name} is {_text(given[name].shape)} instead of {_text(shape)}"
        for name, shape in expected.items()
        if name in given and given[name].shape != shape
    ]
    if wrong:
        tensors = count_text(wrong, "tensor has", "tensors have")
        raise CheckpointError(f"{tensors} a shape that does not fit: {some(wrong, 3)}. {cure}")


def checked_values(state: Mapping[str, Tensor]) -> State:
    """Return the finite state dict in fp32 (half precision is widened exactly), without counters."""
    floats: State = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if value.is_meta:
            raise CheckpointError(
                f"{name} has a shape but no values (it was on PyTorch's meta device). Save real weights."
            )
        if value.layout is not torch.strided:
            raise CheckpointError(f"{name} is a sparse tensor: save it dense, with .to_dense().")
        if value.is_quantized or not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise CheckpointError(f"{name} has {kind} values: give the float weights from before quantization.")
        floats[name] = value.detach().to(torch.float32)
    broken = [name for name, value in floats.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise CheckpointError(
            f"{count_text(broken, 'tensor has', 'tensors have')} values that are not finite ({some(broken)}): the "
            "training diverged, or the file is damaged. Give an earlier checkpoint."
        )
    negative = [name for name, value in floats.items() if name.endswith("running_var") and bool((value < 0).any())]
    if negative:
        raise CheckpointError(f"negative variances in {some(negative)}: the file is damaged. Give another checkpoint.")
    return floats


def _structure(state: State) -> Architecture:
    depths: dict[int, int] = {}
    for name in state:
        if match := BLOCK.match(name):
            stage, index = int(match[1]), int(match[2])
            depths[stage] = max(depths.get(stage, 0), index + 1)
    if not depths or min(depths) != 1 or max(depths) != len(depths):
        found = some(f"layer{stage}" for stage in sorted(depths)) or "none"
        raise CheckpointError(f"no ResNet in this file: stages layer1, layer2, … are needed, found: {found}. {CURE}")
    kernel = tuple(state["conv1.weight"].shape[2:])
    if kernel not in STEMS:
        shape = _text(state["conv1.weight"].shape)
        raise CheckpointError(f"the stem conv1.weight is {shape}; supported kernels are 7x7 and 3x3. {CURE}")
    if state["conv1.weight"].shape[1] != 3:
        channels = state["conv1.weight"].shape[1]
        raise CheckpointError(f"the network takes images with {channels} channels; only RGB (3) is supported.")
    return Architecture(
        family="torchvision" if STEMS[kernel] == "imagenet" else "cifar",
        name="resnet",
        block="bottleneck" if any(".conv3." in name for name in state) else "basic",
        depths=tuple(depths[stage] for stage in sorted(depths)),
        stem=STEMS[kernel],
        shortcut=_shortcut(state),
        input_shape=(3, 0, 0),
        classes=(),
    )


def _shortcut(state: State) -> Literal["A", "B"]:
    """Return B if shortcuts have batch normalization; our own files store option A as constants of 0 and 1."""
    shortcuts = [name for name in state if ".downsample." in name]
    if all(name.endswith(".downsample.0.weight") for name in shortcuts) and all(
        bool(((state[name] == 0) | (state[name] == 1)).all()) for name in shortcuts
    ):
        return "A"
    return "B"


def _expected_names(architecture: Architecture, state: State) -> frozenset[str]:
    names = {"conv1.weight", "fc.weight", "fc.bias"} | {f"bn1.{part}" for part in BATCH_NORM}
    last = 3 if architecture.block == "bottleneck" else 2
    for stage, depth in enumerate(architecture.depths, start=1):
        for index in range(depth):
            block = f"layer{stage}.{index}"
            for layer in range(1, last + 1):
                names.add(f"{block}.conv{layer}.weight")
                names |= {f"{block}.bn{layer}.{part}" for part in BATCH_NORM}
            has_shortcut = any(name.startswith(f"{block}.downsample.") for name in state)
            if has_shortcut or (architecture.shortcut == "B" and stage > 1 and index == 0):
                names.add(f"{block}.downsample.0.weight")
                if architecture.shortcut == "B":
                    names |= {f"{block}.downsample.1.{part}" for part in BATCH_NORM}
    return frozenset(names)


def _check_convolutions(state: State) -> None:
    for name, value in state.items():
        if CONVOLUTION.search(name) and value.dim() != 4:
            raise CheckpointError(f"{name} is {_text(value.shape)}, not the weight of a convolution. {CURE}")


def _groups(state: State) -> int:
    first, second = state["layer1.0.conv1.weight"].shape[0], state["layer1.0.conv2.weight"].shape[1]
    return first // second if second and first % second == 0 else 1


def _with_constant_shortcuts(architecture: Architecture, state: State) -> Architecture:
    """Add the constants that implement option A to `state` and their widths to the architecture."""
    widths = dict(architecture.widths)
    last = "conv3" if architecture.block == "bottleneck" else "conv2"
    channels = widths["conv1"]
    for stage, depth in enumerate(architecture.depths, start=1):
        for index in range(depth):
            name, out = f"layer{stage}.{index}.downsample.0", widths[f"layer{stage}.{index}.{last}"]
            if name not in widths and index == 0 and (stage > 1 or out > channels):
                widths[name] = out
                state[f"{name}.weight"] = constant_shortcut(channels, out, 1).weight.detach()
            channels = out
    return replace(architecture, widths=widths)


def _check_channels(architecture: Architecture) -> None:
    """Raise `CheckpointError` if a block's output and its shortcut differ in channels."""
    widths = architecture.widths
    last = "conv3" if architecture.block == "bottleneck" else "conv2"
    channels = widths["conv1"]
    for stage, depth in enumerate(architecture.depths, start=1):
        for index in range(depth):
            block = f"layer{stage}.{index}"
            shortcut, out = widths.get(f"{block}.downsample.0", channels), widths[f"{block}.{last}"]
            if shortcut != out:
                raise CheckpointError(
                    f"{block} adds {out} channels ({block}.{last}) to a shortcut of {shortcut}: "
                    f"tensors of different networks in one file? {CURE}"
                )
            channels = out


def _shapes(architecture: Architecture) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = build_resnet(architecture)
    return {name: value.shape for name, value in network.state_dict().items() if value.dim() > 0}


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "a scalar"
