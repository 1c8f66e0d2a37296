"""A trained network whose int8 breaks: one channel is scaled up and scaled down again by the layer that reads it.

The function stays the same, since a ReLU commutes with positive factors; but the tensor's one range now spans mostly
that channel, and the reader's small weights drown beside its others (Nagel et al. 2019,
https://arxiv.org/abs/1906.04721, who equalize channels the other way round).
"""

import copy
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_trained import architecture, digits, preprocessing, trained
from torch import nn

from pipeline.artifacts import Checkpoint
from pipeline.models.checkpoint import save_network
from pipeline.progress import Silent
from pipeline.quantize.quantize import quantize
from pipeline.quantize.settings import QuantizeSettings
from pipeline.workplace import Data, Workplace

BLOCK = "layer1.0"
FACTOR = 256.0


def attacked() -> nn.Module:
    network = copy.deepcopy(trained())
    norm, reader = (network.get_submodule(f"{BLOCK}.{name}") for name in ("bn1", "conv2"))
    with torch.no_grad():
        norm.get_parameter("weight")[0] *= FACTOR
        norm.get_parameter("bias")[0] *= FACTOR
        reader.get_parameter("weight")[:, 0] /= FACTOR
    return network


def write_attacked(folder: Path) -> Checkpoint:
    save_network(attacked(), architecture(), folder)
    return Checkpoint(folder=folder)


def write_attacked_weights(path: Path) -> None:
    """As others save them: plain weights, without the constant shortcuts."""
    save_file({name: value for name, value in attacked().state_dict().items() if "downsample" not in name}, path)


def write_quantized(original: Checkpoint, folder: Path) -> Checkpoint:
    """7-bit weights, which every CPU's kernels add up exactly; calibrated alone."""
    folder.mkdir(parents=True)
    quantize(
        original,
        original,
        Data(dataset=digits(), preprocessing=preprocessing()),
        QuantizeSettings(qat_epochs=0, weight_bits=7, keep_float=(), seed=0),
        Workplace(folder=folder, progress=Silent()),
    )
    return Checkpoint(folder=folder)
