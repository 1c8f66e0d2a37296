"""Whole residual blocks out of a network: what their shortcut carries goes on, and nothing else changes."""

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from pipeline.artifacts import Architecture
from pipeline.models.resnet import build_resnet


def remove_blocks(
    network: nn.Module, architecture: Architecture, blocks: Iterable[str]
) -> tuple[nn.Module, Architecture]:
    """`network` without `blocks`, those left renumbered, and its architecture with the new depths.

    A block's shortcut must be the identity, and one block of each stage must be left (`removable_blocks`). The input
    of a block has been through a ReLU, so the one behind its addition changes nothing once the rest is gone.
    """
    gone = set(blocks)
    if not gone:
        return network, architecture
    renamed: dict[str, str] = {}
    depths = []
    for stage, depth in enumerate(architecture.depths, start=1):
        left = [index for index in range(depth) if f"layer{stage}.{index}" not in gone]
        renamed |= {f"layer{stage}.{old}.": f"layer{stage}.{new}." for new, old in enumerate(left)}
        depths.append(len(left))
    state = {}
    for name, value in network.state_dict().items():
        block = ".".join(name.split(".")[:2]) + "."
        if block.startswith("layer"):
            if block not in renamed:
                continue
            name = renamed[block] + name.removeprefix(block)
        state[name] = value
    widths = {name.removesuffix(".weight"): value.shape[0] for name, value in state.items() if value.dim() == 4}
    shallow = replace(architecture, depths=tuple(depths), widths=widths)
    built = build_resnet(shallow)
    built.load_state_dict(state)
    return built.eval(), shallow
