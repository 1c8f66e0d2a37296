"""Random right networks: any depth, width, block, stem, weights' and logits' scale, and layers kept in float."""

import random
from dataclasses import dataclass

import torch
from onnx import ModelProto
from random_statistics import with_random_statistics
from tiny_quantized import CLASSES, calibrated
from torch import Tensor, fx, nn

from pipeline.artifacts import Architecture, Quantization
from pipeline.models.resnet import build_resnet
from pipeline.models.zoo import Bottleneck, residual
from pipeline.quantize.marked_graph import export_marked
from pipeline.quantize.network import quantization_of


@dataclass(frozen=True, kw_only=True)
class Made:
    network: fx.GraphModule
    marked: ModelProto
    quantization: Quantization
    images: Tensor


def random_network(seed: int) -> Made:
    rng = random.Random(seed)
    architecture = random_architecture(rng)
    torch.manual_seed(seed)
    network = with_random_statistics(build_resnet(architecture), seed=seed)
    with torch.no_grad():
        # From logits of thousandths, as label smoothing and temperature leave them, to thousands.
        network.get_submodule("fc").get_parameter("weight").mul_(10 ** rng.uniform(-3, 3))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.mul_(torch.empty_like(module.weight).uniform_(0.02, 2.0) * rng.choice((1.0, 1.0, 5.0)))
    side = architecture.input_shape[1]
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    keep_float = tuple(rng.sample(layers, rng.choice((0, 0, 0, 1, len(layers) // 2))))
    quantized = calibrated(network, weight_bits=7, keep_float=keep_float, side=side)
    return Made(
        network=quantized,
        marked=export_marked(quantized, architecture.input_shape),
        quantization=quantization_of(quantized, weight_bits=7, float_layers=keep_float),
        images=torch.randn(16, 3, side, side, generator=torch.Generator().manual_seed(seed + 1)),
    )


def random_architecture(rng: random.Random) -> Architecture:
    stages = rng.randint(1, 4)
    block = "bottleneck" if rng.random() < 0.5 else "basic"
    is_grouped = block == "bottleneck" and rng.random() < 0.3
    first = rng.choice((4, 6, 8, 12, 16, 24))
    stem = "imagenet" if rng.random() < 0.4 else "cifar"
    side = rng.choice((16, 20, 32, 48))
    return residual(
        stem="imagenet" if stem == "imagenet" else "cifar",
        shortcut="B" if block == "bottleneck" or rng.random() < 0.5 else "A",
        depths=tuple(rng.randint(1, 3) for _ in range(stages)),
        stage_widths=tuple(first * 2**stage for stage in range(stages)),
        classes=CLASSES[: rng.randint(2, 10)],
        input_size=(side, side),
        bottleneck=Bottleneck(groups=2 if is_grouped else 1, inner=first if is_grouped else None)
        if block == "bottleneck"
        else None,
    )
