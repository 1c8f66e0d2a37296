"""A random network, and an image folder on which it classifies every image correctly, for performance measurements.

Images are noise over a pattern per class. The head selects the nearest class by untrained features, and each image is
in the folder of the class that the network predicts.
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.artifacts import Architecture
from pipeline.data.preprocessing import usual_preprocessing
from pipeline.models.resnet import ResNet, build_resnet
from pipeline.models.zoo import published_architecture
from pipeline.training.microbatches import micro_batches
from targets.device.model.image_files import decode
from targets.device.model.preprocess import Preprocessing, preprocess

CLASSES = 10
PATTERN, NOISE = 70.0, 25.0
"""Standard deviations, in levels of 256."""
LOGITS = 10.0
"""Standard deviation between classes, similar to a trained network's."""


def write_noise(name: str, folder: Path, *, training: int, gate: int, seed: int = 0) -> Path:
    """Write `network.safetensors` and `data/` with the JPEG files into `folder`; return the former's path."""
    architecture = published_architecture(name, classes=tuple(f"class{index}" for index in range(CLASSES)))
    preprocessing = usual_preprocessing(architecture.family, input_size=architecture.input_shape[1:])
    rng = np.random.default_rng(seed)
    patterns = [_pattern(rng, architecture) for _ in range(CLASSES)]
    files = [_jpeg(patterns[index % CLASSES], rng) for index in range(training + gate)]
    torch.manual_seed(seed)
    network = build_resnet(architecture)
    _settle(network, _inputs(files[: 4 * CLASSES], preprocessing))
    _aim(network, _inputs([_jpeg(pattern, rng) for pattern in patterns], preprocessing))
    for index, file in enumerate(files):
        label = int(_answers(network, _inputs([file], preprocessing)).argmax())
        place = folder / "data" / ("train" if index < training else "val") / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index}.jpg").write_bytes(file)
    save_file(network.state_dict(), folder / "network.safetensors")
    return folder / "network.safetensors"


def _pattern(rng: np.random.Generator, architecture: Architecture) -> Image.Image:
    coarse = rng.normal(128, PATTERN, (7, 7, 3)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize(architecture.input_shape[:0:-1], Image.Resampling.BICUBIC)


def _jpeg(pattern: Image.Image, rng: np.random.Generator) -> bytes:
    noisy = np.asarray(pattern) + rng.normal(0, NOISE, (pattern.height, pattern.width, 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _inputs(files: list[bytes], preprocessing: Preprocessing) -> Tensor:
    return torch.from_numpy(
        np.stack([preprocess(decode(file, shorter_side=preprocessing.shorter_side), preprocessing) for file in files])
    )


@torch.no_grad()
def _settle(network: ResNet, images: Tensor) -> None:
    """Measure the statistics of every batch normalization, so that activations keep their size through all layers."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()
    for (part,) in micro_batches(images):
        network(part)
    network.eval()


@torch.no_grad()
def _aim(network: ResNet, images: Tensor) -> None:
    """Set the head to predict the class with the nearest features [classes, C]."""
    network.fc, head = nn.Identity(), network.fc  # type: ignore[assignment]
    features = network(images)
    network.fc = head
    centred = features - features.mean(dim=0)
    scale = LOGITS / (centred @ centred.T).std()
    head.weight.copy_(scale * centred)
    head.bias.copy_(-scale * (features * centred).sum(dim=1) + scale * centred.square().sum(dim=1) / 2)


@torch.no_grad()
def _answers(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network(images)
    return logits
