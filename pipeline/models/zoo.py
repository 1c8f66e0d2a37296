"""Published ResNets: from a name to an architecture, and back.

ImageNet networks: He et al. 2015 table 1, wide and ResNeXt as in torchvision. CIFAR networks: He et al. 2015
section 4.2, three stages of 16, 32 and 64 channels, depth 6n + 2, option-A shortcuts.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.artifacts import Architecture
from pipeline.errors import CheckpointError

INPUT_SIZE = {"imagenet": (224, 224), "cifar": (32, 32)}
EXPANSION = 4
DEPTHS: dict[str, tuple[Literal["basic", "bottleneck"], tuple[int, ...]]] = {
    "18": ("basic", (2, 2, 2, 2)),
    "34": ("basic", (3, 4, 6, 3)),
    "50": ("bottleneck", (3, 4, 6, 3)),
    "101": ("bottleneck", (3, 4, 23, 3)),
    "152": ("bottleneck", (3, 8, 36, 3)),
}
NAME = re.compile(r"^(wide_)?resne(?:t|xt)(\d+)(?:_(\d+)x(\d+)d|_2)?$")


def published_architecture(
    name: str, *, classes: tuple[str, ...], input_size: tuple[int, int] | None = None
) -> Architecture:
    """Return `resnet20`, `resnet50`, `wide_resnet50_2`, …; raise `CheckpointError` for other names."""
    match = NAME.match(name)
    if match and match[2] in DEPTHS:
        block, depths = DEPTHS[match[2]]
        groups, base = int(match[3] or 1), int(match[4] or 64)
        inner = 128 if match[1] else groups * base
        architecture = residual(
            bottleneck=Bottleneck(groups=groups, inner=inner) if block == "bottleneck" else None,
            depths=depths,
            stage_widths=(64, 128, 256, 512),
            stem="imagenet",
            shortcut="B",
            classes=classes,
            input_size=input_size,
        )
        if architecture.name == name:
            return architecture
    elif match and name == f"resnet{match[2]}" and (int(match[2]) - 2) % 6 == 0 and int(match[2]) > 2:
        depths = ((int(match[2]) - 2) // 6,) * 3
        return residual(depths=depths, stage_widths=(16, 32, 64), classes=classes, input_size=input_size)
    raise CheckpointError(
        f"{name} is not a published network. Known: resnet18, 34, 50, 101, 152, wide_resnet50_2, resnext50_32x4d, "
        "… for 224x224, resnet20, 32, 44, 56, 110 for 32x32."
    )


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """Blocks of 1x1, 3x3 and 1x1 convolutions."""

    groups: int = 1
    inner: int | None = None
    """Width of the first stage's 3x3 convolutions, doubled per stage; None: the stage's width."""


def residual(
    *,
    depths: tuple[int, ...],
    stage_widths: tuple[int, ...],
    classes: tuple[str, ...],
    bottleneck: Bottleneck | None = None,
    stem: Literal["imagenet", "cifar"] = "cifar",
    shortcut: Literal["A", "B"] = "A",
    input_size: tuple[int, int] | None = None,
) -> Architecture:
    """Return an unpruned ResNet, with basic blocks unless `bottleneck` is given."""
    widths = {"conv1": stage_widths[0]}
    channels = stage_widths[0]
    for stage, (depth, width) in enumerate(zip(depths, stage_widths, strict=True), start=1):
        out = width * (1 if bottleneck is None else EXPANSION)
        for index in range(depth):
            prefix = f"layer{stage}.{index}"
            if bottleneck is not None:
                inner = (bottleneck.inner or stage_widths[0]) * 2 ** (stage - 1)
                widths[f"{prefix}.conv1"] = widths[f"{prefix}.conv2"] = inner
                widths[f"{prefix}.conv3"] = out
            else:
                widths[f"{prefix}.conv1"] = widths[f"{prefix}.conv2"] = out
            if index == 0 and (stage > 1 or out != channels):
                widths[f"{prefix}.downsample.0"] = out
            channels = out
    architecture = Architecture(
        family="torchvision" if stem == "imagenet" else "cifar",
        name="",
        block="basic" if bottleneck is None else "bottleneck",
        depths=depths,
        stem=stem,
        shortcut=shortcut,
        groups=1 if bottleneck is None else bottleneck.groups,
        input_shape=(3, *(input_size or INPUT_SIZE[stem])),
        classes=classes,
        widths=widths,
    )
    return replace(architecture, name=published_name(architecture))


def published_name(architecture: Architecture) -> str:
    """Return the name of an unpruned architecture; unusual depths are counted as in He et al."""
    per_block = 3 if architecture.block == "bottleneck" else 2
    layers = str(2 + per_block * sum(architecture.depths))
    shape = (architecture.block, architecture.depths)
    number = next((number for number, known in DEPTHS.items() if known == shape), layers)
    inner = architecture.widths["layer1.0.conv1"]
    if architecture.groups > 1:
        return f"resnext{number}_{architecture.groups}x{inner // architecture.groups}d"
    is_wide = len(architecture.depths) == 4 and per_block == 3 and inner == 2 * architecture.widths["conv1"]
    return f"wide_resnet{number}_2" if is_wide else f"resnet{number}"
