"""The many names that training code gives the same ResNet's tensors, brought to torchvision's."""

import re
from collections.abc import Iterable, Mapping, Sized

from torch import Tensor

from pipeline.errors import CheckpointError

State = dict[str, Tensor]

CURE = "For a network of your own, give its factory with --model package.module:factory."

STEM = re.compile(r"^((?:.+\.)?)conv1\.weight$")
IN_BLOCK = re.compile(r"(^|\.)layer\d+\.\d+\.")
# What training code leaves in a state dict beside the network, and the network's function does not depend on.
LEFTOVER = re.compile(r"^(?:criterion|loss\w*|metrics?|\w+_metrics?|\w+_acc(?:uracy)?)\.")
# Hugging Face transformers' ResNetForImageClassification, such as microsoft/resnet-50.
TRANSFORMERS = re.compile(r"(?:^|\.)embedder\.embedder\.convolution\.weight$")
TRANSFORMERS_STEM = re.compile(r"^(.*?)(?:resnet\.)?embedder\.embedder\.(convolution|normalization)\.")
TRANSFORMERS_BLOCK = re.compile(
    r"^(.*?)(?:resnet\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\.(layer\.\d+|shortcut)\.(convolution|normalization)\."
)


def torchvision_names(state: Mapping[str, Tensor]) -> State:
    """The same tensors under torchvision's names: wrappers' prefixes off, `shortcut` → `downsample`, the head `fc`.

    Raises `CheckpointError` where there is no ResNet's stem, more than one network, or not exactly one head.
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
    """A few of `names`, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def counted(things: Sized, one: str, many: str) -> str:
    """How many there are, in words that agree: `1 tensor is`, `3 tensors are`."""
    return f"{len(things)} {one if len(things) == 1 else many}"


def _prefix(state: Mapping[str, Tensor]) -> str:
    stems = [match[1] for name in state if (match := STEM.match(name)) and not IN_BLOCK.search(match[1])]
    if not stems:
        raise CheckpointError(
            f"no ResNet in this file: there is no stem convolution conv1.weight among its {len(state)} tensors "
            f"({some(state)}). Stems of several convolutions (ResNet-C, -D) are not among the known ones. {CURE}"
        )
    if len(stems) > 1 and all(re.search(r"\d", stem) for stem in stems):
        raise CheckpointError(
            f"a network in a layout that is not known: {len(stems)} convolutions conv1, under "
            f"{some((repr(stem) for stem in stems), 3)}. Known are torchvision's names (layer1.0.conv1.weight) and "
            f"transformers'. {CURE}"
        )
    if len(stems) > 1:
        raise CheckpointError(
            f"{len(stems)} networks in this file, under {some(repr(stem) for stem in stems)}: "
            "keep the one to deploy, and save its state dict alone."
        )
    return stems[0]


def _head(state: Mapping[str, Tensor]) -> str:
    heads = [name.removesuffix(".weight") for name, value in state.items() if _is_linear(name, value)]
    if len(heads) == 1:
        return heads[0]
    if not heads:
        raise CheckpointError(
            "no classifier in this file: a linear layer (fc, linear, head, …) is missing, as if only the backbone "
            "had been saved. Save the state dict of the whole network."
        )
    raise CheckpointError(
        f"{len(heads)} linear layers in this file ({some(heads)}); a ResNet has one, its head. {CURE}"
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
