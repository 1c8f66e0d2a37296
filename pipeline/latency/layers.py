"""Assign each node of a graph to a layer, and describe the shape of layers.

A layer owns itself and all nodes up to the next layer. If two meet in an addition, the later one owns it.
Global pooling and reshaping belong to the layer that reads them, independent of the last block before them.
"""

import re
from collections.abc import Iterable

import torch
from onnx import ModelProto, NodeProto
from torch import Tensor, nn

from pipeline.latency.subnetwork import LAYERS, Site
from targets.runtimes.onnxruntime.audit import SUFFIX

MARKERS = ("Point", "Weight", "Identity", "Reshape", "Flatten")
LOOKS_AHEAD = ("GlobalAveragePool", "Reshape", "Flatten")
# Suffixes that ONNX Runtime adds to the names of nodes that it creates or copies.
COPY = re.compile(r"(\.quantize|\.dequantize|_quant|_dequant)$")


def owners(model: ModelProto) -> dict[str, str]:
    """Return the layer of every node and tensor name of a written file; names before the first layer have none."""
    found: dict[str, str] = {}
    order: dict[str, int] = {}
    waiting: list[NodeProto] = []
    for position, node in enumerate(model.graph.node):
        if node.op_type in LAYERS:
            owner = node.name
            order[owner] = position
            for earlier in waiting:
                found |= dict.fromkeys((earlier.name, *earlier.output), owner)
            waiting = []
        elif node.op_type in LOOKS_AHEAD or any(name in each.output for name in node.input for each in waiting):
            waiting.append(node)
            continue
        else:
            candidates = [found[name] for name in node.input if name in found]
            if not candidates:
                continue
            owner = max(candidates, key=lambda name: order[name])
        found |= dict.fromkeys((node.name, *node.output), owner)
    return found


def owner_of(node: str, known: dict[str, str]) -> str | None:
    """Return the layer of a node of the optimized graph, or None if its name does not tell."""
    name = SUFFIX.sub("", node)
    return known.get(name, known.get(COPY.sub("", name)))


def layer_shapes(
    network: nn.Module, marked: ModelProto, layers: dict[str, Site], input_shape: tuple[int, int, int]
) -> dict[str, str]:
    """Return a description that is equal for layers of equal time: `3x3/1 32x32 16>16 Add Relu`."""
    places = _places(network, layers, input_shape)
    behind = _behind(marked)
    shapes = {}
    for name, site in layers.items():
        module = network.get_submodule(name)
        kernel = ""
        if isinstance(module, nn.Conv2d):
            kernel = f"{'x'.join(map(str, module.kernel_size))}/{module.stride[0]} "
        parts = f" {site.groups} groups" if site.groups > 1 else ""
        after = "".join(f" {operator}" for operator in behind.get(name, ()))
        shapes[name] = f"{kernel}{places[name]}{site.inputs}>{site.outputs}{parts}{after}"
    return shapes


def _places(network: nn.Module, layers: Iterable[str], input_shape: tuple[int, int, int]) -> dict[str, str]:
    """Return height and width of each layer's input, as text."""
    places: dict[str, str] = {}

    def noter(name: str) -> object:
        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            del module
            size = inputs[0].shape[2:]
            places[name] = f"{size[0]}x{size[1]} " if len(size) == 2 else ""

        return note

    handles = [network.get_submodule(name).register_forward_pre_hook(noter(name)) for name in layers]  # type: ignore[arg-type]
    try:
        with torch.no_grad():
            network(torch.zeros(1, *input_shape))
    finally:
        for handle in handles:
            handle.remove()
    return places


def _behind(marked: ModelProto) -> dict[str, list[str]]:
    behind: dict[str, list[str]] = {}
    named = _name_nodes(marked.graph.node)
    found = owners(named)
    for node in named.graph.node:
        if node.op_type not in (*LAYERS, *MARKERS) and node.name in found:
            behind.setdefault(found[node.name], []).append(node.op_type)
    return behind


def _name_nodes(nodes: Iterable[NodeProto]) -> ModelProto:
    """Return the marked graph with its layers' nodes named after their layers."""
    model = ModelProto()
    stored: dict[str, str] = {}
    for node in nodes:
        copy = model.graph.node.add()
        copy.CopyFrom(node)
        if node.domain and node.op_type == "Weight":
            stored[node.output[0]] = node.input[0]
        if node.op_type in LAYERS:
            copy.name = stored.get(node.input[1], node.input[1]).removesuffix(".weight")
    return model
