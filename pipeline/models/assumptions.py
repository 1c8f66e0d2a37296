"""Properties of a ResNet that weights do not show and that are assumed as published."""

from pipeline.artifacts import Architecture


def assumptions(architecture: Architecture) -> str:
    """Return them as text for the log of stage `load`; see `pipeline.models.resnet` for the network that is built."""
    if architecture.stem == "imagenet":
        stem = "stem with stride 2, then 3x3 max-pooling with stride 2"
    else:
        stem = "stem with stride 1, no max-pooling"
    stride = "3x3" if architecture.block == "bottleneck" else "first 3x3"
    shortcut = (
        "shortcuts without weights that take every second pixel and pad the channels with zeros on both sides"
        if architecture.shortcut == "A"
        else "shortcuts by a strided 1x1 convolution, without pooling"
    )
    return (
        f"{stem}; stride 2 in the {stride} convolution of a stage's first block; {shortcut}; ReLU; zero padding; "
        "batch normalization with eps 1e-5"
    )
