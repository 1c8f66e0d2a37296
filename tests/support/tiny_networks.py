"""Small networks of every kind that pruning meets: the ResNet family, and what users may build."""

import random
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from random_statistics import with_random_statistics
from torch import Tensor, nn

from pipeline.artifacts import Architecture
from pipeline.models.resnet import build_resnet
from pipeline.models.surgery import Group, Removal
from pipeline.models.zoo import Bottleneck, residual

CLASSES = ("a", "b", "c", "d")
SHAPE = (3, 16, 16)
"""What the users' own networks take."""

OPTION_A = residual(depths=(1, 2, 1), stage_widths=(8, 12, 16), classes=CLASSES, input_size=(16, 16))
OPTION_B = residual(depths=(1, 2, 1), stage_widths=(8, 12, 16), classes=CLASSES, shortcut="B", input_size=(16, 16))


def deep(inner: int, groups: int = 1) -> Architecture:
    return residual(
        depths=(1, 2, 1, 1),
        stage_widths=(4, 8, 8, 8),
        classes=CLASSES,
        shortcut="B",
        stem="imagenet",
        input_size=(32, 32),
        bottleneck=Bottleneck(groups=groups, inner=inner),
    )


GROUPED = deep(inner=8, groups=4)
FAMILY = [
    pytest.param(OPTION_A, id="option-A"),
    pytest.param(OPTION_B, id="option-B"),
    pytest.param(deep(inner=4), id="bottleneck"),
    pytest.param(deep(inner=8), id="wide"),
    pytest.param(GROUPED, id="grouped"),
]


def network_of(architecture: Architecture) -> nn.Module:
    return own(lambda: build_resnet(architecture))


def own(make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` makes, the same each time, with batch normalization as varied as a trained network's."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return with_random_statistics(make(), seed=1)


def random_removal(groups: Sequence[Group], seed: int) -> dict[str, tuple[int, ...]]:
    """Any number of channels from every group, at least one is left; the same positions of each part."""
    generator = random.Random(seed)
    removal = {}
    for group in groups:
        per_part = group.width // group.parts
        positions = sorted(generator.sample(range(per_part), generator.randrange(per_part)))
        if positions:
            removal[group.root] = tuple(part * per_part + p for part in range(group.parts) for p in positions)
    return removal


def widths_after(groups: Sequence[Group], removal: Removal) -> dict[str, int]:
    return {group.root: group.width - len(removal.get(group.root, ())) for group in groups}


class Concatenated(nn.Module):
    """Two branches side by side; the layers behind read from both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.right = nn.Conv2d(8, 12, 1)
        self.norm = nn.BatchNorm2d(20)
        self.last = nn.Conv2d(20, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        out = self.stem(images).relu()
        out = self.norm(torch.cat([self.left(out), self.right(out)], 1)).relu()
        logits: Tensor = self.head(self.last(out).relu().mean((2, 3)))
        return logits


class Depthwise(nn.Module):
    """A depthwise convolution, and linear layers that read every channel at sixteen places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm2 = nn.BatchNorm2d(8)
        self.point = nn.Conv2d(8, 12, 1)
        self.hidden = nn.Linear(12 * 16, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, images: Tensor) -> Tensor:
        out = self.norm2(self.depth(self.norm1(self.stem(images)).relu())).relu()
        out = F.adaptive_avg_pool2d(self.point(out).relu(), 4).flatten(1)
        logits: Tensor = self.head(self.hidden(out).relu())
        return logits


class Gated(nn.Module):
    """Squeeze and excitation: channels are multiplied by what other layers make of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.last = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        out = self.stem(images).relu()
        gate = self.excite(self.squeeze(out.mean((2, 3), keepdim=True)).relu()).sigmoid()
        logits: Tensor = self.head(self.last(out * gate).relu().mean((2, 3)))
        return logits


class Unknown(nn.Module):
    """Layers with parameters of their own per channel that pruning does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.slopes = nn.PReLU(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.third = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        out = self.norm(self.second(self.slopes(self.first(images)))).relu()
        logits: Tensor = self.head(self.third(out).relu().mean((2, 3)))
        return logits


class Padded(nn.Module):
    """Option A as most code writes it: the shortcut is subsampled and padded with channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inside = nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.last = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        out = self.stem(images).relu()
        shortcut = F.pad(out[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        out = (self.last(self.inside(out).relu()) + shortcut).relu()
        logits: Tensor = self.head(out.mean((2, 3)))
        return logits


class Shifted(nn.Module):
    """`F.pad` that keeps the number of channels: every shape fits whatever is taken out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        out = self.stem(images).relu()
        out = (self.last(out) + F.pad(out, (0, 0, 0, 0, 3, -3))).relu()
        logits: Tensor = self.head(out.mean((2, 3)))
        return logits


class Rigid(nn.Module):
    """The forward function names a width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, images: Tensor) -> Tensor:
        out = F.adaptive_avg_pool2d(self.stem(images).relu(), 4)
        logits: Tensor = self.head(out.view(-1, 8 * 16))
        return logits
