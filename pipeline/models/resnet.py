"""ResNets of all kinds, pruned or not, as one module whose widths are data.

Basic and bottleneck blocks (He et al. 2015, https://arxiv.org/abs/1512.03385), stride on the bottleneck's 3x3
convolution as in torchvision, wide and grouped (ResNeXt) variants, ImageNet and CIFAR stems. Module names are
torchvision's. Every ReLU is its own module, so that each activation has a name; the forward pass has no control
flow that depends on data, so that `torch.fx` can trace it.
"""

import torch
from torch import Tensor, nn

from pipeline.artifacts import Architecture


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; `downsample` is None if the shortcut is the identity."""

    def __init__(self, conv1: nn.Conv2d, conv2: nn.Conv2d, downsample: nn.Sequential | None) -> None:
        super().__init__()
        self.conv1 = conv1
        self.bn1 = nn.BatchNorm2d(conv1.out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = conv2
        self.bn2 = nn.BatchNorm2d(conv2.out_channels)
        self.relu2 = nn.ReLU()
        self.downsample = downsample

    def forward(self, images: Tensor) -> Tensor:  # [B, C_in, H, W] -> [B, C_out, H / stride, W / stride]
        shortcut = images if self.downsample is None else self.downsample(images)
        out = self.relu1(self.bn1(self.conv1(images)))
        out = self.bn2(self.conv2(out))
        result: Tensor = self.relu2(out + shortcut)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided, possibly grouped) and 1x1 convolution."""

    def __init__(self, conv1: nn.Conv2d, conv2: nn.Conv2d, conv3: nn.Conv2d, downsample: nn.Sequential | None) -> None:
        super().__init__()
        self.conv1 = conv1
        self.bn1 = nn.BatchNorm2d(conv1.out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = conv2
        self.bn2 = nn.BatchNorm2d(conv2.out_channels)
        self.relu2 = nn.ReLU()
        self.conv3 = conv3
        self.bn3 = nn.BatchNorm2d(conv3.out_channels)
        self.relu3 = nn.ReLU()
        self.downsample = downsample

    def forward(self, images: Tensor) -> Tensor:  # [B, C_in, H, W] -> [B, C_out, H / stride, W / stride]
        shortcut = images if self.downsample is None else self.downsample(images)
        out = self.relu1(self.bn1(self.conv1(images)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        result: Tensor = self.relu3(out + shortcut)
        return result


class ResNet(nn.Module):
    """`conv1 bn1 relu [maxpool] layer1 layer2 .. avgpool fc`."""

    def __init__(self, stem: nn.Conv2d, has_maxpool: bool, stages: list[nn.Sequential], head: nn.Linear) -> None:
        super().__init__()
        self.conv1 = stem
        self.bn1 = nn.BatchNorm2d(stem.out_channels)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if has_maxpool else None
        self.stages = tuple(f"layer{index}" for index in range(1, len(stages) + 1))
        for name, stage in zip(self.stages, stages, strict=True):
            self.add_module(name, stage)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = head

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> logits [B, classes]
        out = self.features_of_stem(images)
        for name in self.stages:
            out = self.get_submodule(name)(out)
        return self.logits_of_features(out)

    def features_of_stem(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, C, h, w]
        """Return the input of the first block."""
        out: Tensor = self.relu(self.bn1(self.conv1(images)))
        return out if self.maxpool is None else self.maxpool(out)

    def logits_of_features(self, features: Tensor) -> Tensor:  # [B, C, h, w] -> logits [B, classes]
        """Return the logits for the last block's output."""
        logits: Tensor = self.fc(torch.flatten(self.avgpool(features), 1))
        return logits

    def blocks(self) -> list[str]:
        """Return the names of the residual blocks in the order they run, such as `layer1.0`."""
        return [f"{stage}.{index}" for stage in self.stages for index in range(len(self.get_submodule(stage)))]  # type: ignore[arg-type]


def build_resnet(architecture: Architecture) -> ResNet:
    """Return the network of `architecture` with new weights; `architecture.widths` names every convolution.

    A block has a shortcut convolution only if `widths` has its `downsample.0`. With option A that
    convolution is the constant of `constant_shortcut`, without batch normalization.
    """
    widths, imagenet = architecture.widths, architecture.stem == "imagenet"
    channels = widths["conv1"]
    kernel, stride = (7, 2) if imagenet else (3, 1)
    stem = nn.Conv2d(architecture.input_shape[0], channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    last = "conv3" if architecture.block == "bottleneck" else "conv2"
    stages = []
    for stage, depth in enumerate(architecture.depths, start=1):
        blocks = []
        for index in range(depth):
            name = f"layer{stage}.{index}"
            blocks.append(_block(architecture, name, channels, 2 if stage > 1 and index == 0 else 1))
            channels = widths[f"{name}.{last}"]
        stages.append(nn.Sequential(*blocks))
    return ResNet(stem, imagenet, stages, nn.Linear(channels, len(architecture.classes)))


def constant_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    """Return option A (every `stride`-th pixel, zeros as the added channels) as a constant 1x1 convolution.

    The zeros go half before and half after the image's channels, as in the CIFAR-10 networks of Y. Idelbayev
    (https://github.com/akamaster/pytorch_resnet_cifar10). As a convolution it can be pruned and quantized.
    """
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    convolution.weight.requires_grad_(False)
    convolution.weight.zero_()
    before = max(0, out_channels - in_channels) // 2
    for channel in range(min(in_channels, out_channels)):
        convolution.weight[before + channel, channel] = 1
    return convolution


def is_constant_shortcut(module: nn.Module) -> bool:
    """Whether `module` is an option-A shortcut, pruned or not: an untrained 1x1 selection of channels."""
    if not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1) or module.bias is not None:
        return False
    weight = module.weight.detach()
    return bool(((weight == 0) | (weight == 1)).all()) and bool((weight.sum(dim=1) <= 1).all())


def _block(architecture: Architecture, name: str, channels: int, stride: int) -> BasicBlock | Bottleneck:
    widths = architecture.widths
    first, second = widths[f"{name}.conv1"], widths[f"{name}.conv2"]
    downsample = _downsample(architecture, widths.get(f"{name}.downsample.0"), channels, stride)
    if architecture.block == "bottleneck":
        return Bottleneck(
            nn.Conv2d(channels, first, 1, bias=False),
            nn.Conv2d(first, second, 3, stride=stride, padding=1, groups=architecture.groups, bias=False),
            nn.Conv2d(second, widths[f"{name}.conv3"], 1, bias=False),
            downsample,
        )
    return BasicBlock(
        nn.Conv2d(channels, first, 3, stride=stride, padding=1, bias=False),
        nn.Conv2d(first, second, 3, padding=1, bias=False),
        downsample,
    )


def _downsample(architecture: Architecture, width: int | None, channels: int, stride: int) -> nn.Sequential | None:
    if width is None:
        return None
    if architecture.shortcut == "A":
        return nn.Sequential(constant_shortcut(channels, width, stride))
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
