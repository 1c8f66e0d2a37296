"""Cut a network with fewer channels and residual blocks out of an exported graph, without exporting again.

The exporter takes seconds, a latency table needs dozens of networks, and their time depends only on their shapes.
So the constants of the marked graph are cut to size: the first channels of each layer are kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from torch import nn

from pipeline.artifacts import Architecture, Quantization
from pipeline.errors import CompressionError
from pipeline.models.cost import Shares, shares
from pipeline.models.surgery import Group, is_depthwise

LAYERS = ("Conv", "Gemm")


@dataclass(frozen=True, kw_only=True)
class Subnetwork:
    """Remaining widths and removed blocks of a network."""

    widths: Mapping[str, int]
    """Channels that each group keeps, by its root."""
    removed: frozenset[str] = field(default_factory=frozenset)
    """Removed residual blocks, such as `layer1.2`."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A layer with the groups it reads and those it writes."""

    inputs: int
    outputs: int
    """Output channels of the full layer."""
    groups: int
    is_depthwise: bool
    readers: Shares
    writers: Shares

    def size(self, widths: Mapping[str, int], full: Mapping[str, int]) -> tuple[int, int]:
        """Return the remaining input and output channels."""
        gone_in = sum((full[root] - widths[root]) * ratio for root, ratio in self.readers)
        gone_out = sum((full[root] - widths[root]) * ratio for root, ratio in self.writers)
        return round(self.inputs - gone_in), round(self.outputs - gone_out)

    @property
    def roots(self) -> frozenset[str]:
        return frozenset(root for root, _ in (*self.readers, *self.writers))


def sites(network: nn.Module, groups: Iterable[Group]) -> dict[str, Site]:
    """Return every convolution and linear layer of `network` by name, in the order they are registered."""
    writers, readers = shares(groups)
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            inputs, outputs, parts = module.in_channels, module.out_channels, module.groups
        elif isinstance(module, nn.Linear):
            inputs, outputs, parts = module.in_features, module.out_features, 1
        else:
            continue
        found[name] = Site(
            inputs=inputs,
            outputs=outputs,
            groups=parts,
            is_depthwise=is_depthwise(module),
            readers=tuple(readers.get(name, ())),
            writers=tuple(writers.get(name, ())),
        )
    return found


def removable_blocks(architecture: Architecture) -> tuple[str, ...]:
    """Return the blocks whose shortcut is the identity, except the first of each stage, so that no stage is empty."""
    if architecture.family == "custom":
        return ()
    names = (
        f"layer{stage}.{index}" for stage, depth in enumerate(architecture.depths, 1) for index in range(1, depth)
    )
    return tuple(name for name in names if f"{name}.downsample.0" not in architecture.widths)


def cut_subnetwork(
    marked: ModelProto,
    quantization: Quantization,
    layers: Mapping[str, Site],
    full: Mapping[str, int],
    subnetwork: Subnetwork,
) -> tuple[ModelProto, Quantization]:
    """Return copies of `marked` and its quantization cut to `subnetwork`.

    Raises `CompressionError` for a graph with per-channel constants outside of convolutions and linear layers.
    """
    cut = ModelProto()
    cut.CopyFrom(marked)
    for block in sorted(subnetwork.removed):
        _remove_block(cut, block)
    _remove_unused_nodes(cut)
    constants = {tensor.name: tensor for tensor in cut.graph.initializer}
    weights: dict[str, tuple[float, ...]] = {}
    named = {node.output[0]: node for node in cut.graph.node if node.domain}
    for node in cut.graph.node:
        if node.op_type not in LAYERS:
            _check_operator(node)
            continue
        marker = named.get(node.input[1])
        stored = marker.input[0] if marker is not None else node.input[1]
        layer = stored.removesuffix(".weight")
        if layer not in layers:
            raise CompressionError(f"the graph's node {node.name} is not a layer of the network: cannot be profiled.")
        inputs, outputs = layers[layer].size(subnetwork.widths, full)
        _resize(node, constants, stored, layers[layer], inputs, outputs)
        _reshape(cut, node, constants, inputs)
        if layer in quantization.weights:
            weights[layer] = quantization.weights[layer][:outputs]
    return cut, replace(quantization, weights=weights)


def _resize(
    node: NodeProto, constants: Mapping[str, TensorProto], weight: str, site: Site, inputs: int, outputs: int
) -> None:
    parts = outputs if site.is_depthwise else site.groups
    value = numpy_helper.to_array(constants[weight])[:outputs, : inputs // parts]
    constants[weight].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), weight))
    for name in node.input[2:]:
        bias = numpy_helper.to_array(constants[name])[:outputs]
        constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(bias), name))
    for attribute in node.attribute:
        if attribute.name == "group":
            attribute.i = parts


def _reshape(model: ModelProto, layer: NodeProto, constants: Mapping[str, TensorProto], inputs: int) -> None:
    """Set the number of remaining features in a Reshape to [batch, features] right before a layer."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    before = made_by.get(layer.input[0])
    while before is not None and before.domain:
        before = made_by.get(before.input[0])
    if before is not None and before.op_type == "Reshape" and before.input[1] in constants:
        shape = numpy_helper.to_array(constants[before.input[1]]).copy()
        shape[-1] = inputs
        constants[before.input[1]].CopyFrom(numpy_helper.from_array(shape, before.input[1]))


def _check_operator(node: NodeProto) -> None:
    if node.op_type == "BatchNormalization":
        raise CompressionError(
            f"the batch normalization {node.name} does not follow a convolution of its own, so its latency cannot be "
            "profiled by width. Prune by --macs or --params instead."
        )


def _remove_block(model: ModelProto, block: str) -> None:
    """Connect the readers of the block's output to its input."""
    nodes = model.graph.node
    order = _layer_order(nodes)
    inside = [position for layer, position in order if layer.startswith(f"{block}.")]
    if not inside:
        raise CompressionError(f"the graph has no block {block}.")
    before = nodes[inside[0]].input[0]
    after = _block_output(nodes, inside[-1])
    for node in nodes:
        for index, name in enumerate(node.input):
            if name == after:
                node.input[index] = before


def _layer_order(nodes: Sequence[NodeProto]) -> list[tuple[str, int]]:
    """Return layers and the positions of their nodes, in the order of the graph."""
    stored = {node.output[0]: node.input[0] for node in nodes if node.domain}
    return [
        (stored.get(node.input[1], node.input[1]).removesuffix(".weight"), position)
        for position, node in enumerate(nodes)
        if node.op_type in LAYERS
    ]


def _block_output(nodes: Sequence[NodeProto], last: int) -> str:
    """Return the tensor after the addition, ReLU and quantization point that follow a block's last layer."""
    tensor = str(nodes[last].output[0])
    passed = False
    for node in nodes[last + 1 :]:
        if tensor not in node.input or (passed and node.op_type not in ("Relu", "Point")):
            break
        passed = passed or node.op_type == "Add"
        tensor = str(node.output[0])
    return tensor


def _remove_unused_nodes(model: ModelProto) -> None:
    needed = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    kept.reverse()
    del model.graph.node[:]
    model.graph.node.extend(kept)
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
