"""A tiny real ResNet, its checkpoint folder, and the real data where it is present."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.artifacts import Architecture, Checkpoint
from pipeline.checkpoint import save_network
from pipeline.published import residual
from pipeline.resnet import build_resnet

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def data_root() -> Path:
    """Real images and trained checkpoints (`EDGE_DEPLOY_DATA`); the test is skipped where they are absent."""
    root = Path(os.environ.get("EDGE_DEPLOY_DATA", REPOSITORY.parent / "shared" / "data")).resolve()
    if not (root / "checkpoints").is_dir():
        pytest.skip(f"no real data at {root} (EDGE_DEPLOY_DATA)")
    return root


@pytest.fixture(scope="session")
def tiny_architecture() -> Architecture:
    """ResNet-8 for 32x32 images of ten classes: three stages, option-A shortcuts, 0.02 M parameters."""
    classes = tuple(f"class{index}" for index in range(10))
    return residual(depths=(1, 1, 1), stage_widths=(8, 16, 32), classes=classes)


@pytest.fixture
def tiny_resnet(tiny_architecture: Architecture) -> nn.Module:
    """The tiny ResNet in evaluation mode, its batch normalization as varied as a trained network's."""
    return with_random_statistics(build_resnet(tiny_architecture), seed=0)


@pytest.fixture
def tiny_checkpoint(tiny_architecture: Architecture, tiny_resnet: nn.Module, tmp_path: Path) -> Checkpoint:
    """The tiny ResNet as a checkpoint folder."""
    folder = tmp_path / "tiny-checkpoint"
    save_network(tiny_resnet, tiny_architecture, folder)
    return Checkpoint(folder=folder)


def with_random_statistics(network: nn.Module, seed: int) -> nn.Module:
    """Weights and statistics drawn from `seed`; equal biases would be merged on export and hide fusion faults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.requires_grad:
                fan_in = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                assert module.running_var is not None
                shape = module.weight.shape
                module.weight.copy_(torch.rand(shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(shape, generator=generator) * 0.2)
                module.running_mean.copy_(torch.randn(shape, generator=generator) * 0.2)
                module.running_var.copy_(torch.rand(shape, generator=generator) + 0.5)
    return network.eval()
