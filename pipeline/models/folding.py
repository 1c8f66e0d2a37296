"""Trace a network into a graph, fold its batch normalization into the convolutions, and undo that.

Quantization needs the graph as data (which tensor feeds which node) and the weights as they will run: a batch
normalization that remains on the device keeps its convolution out of int8.

    w' = w * gamma / sqrt(variance + eps)        b' = (b - mean) * gamma / sqrt(variance + eps) + beta
"""

import copy
from collections import Counter
from typing import TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from pipeline.errors import CompressionError


def trace_folded(network: nn.Module) -> fx.GraphModule:
    """Return a copy of `network` in evaluation mode as a `torch.fx` graph, batch normalization folded where possible.

    Raises `CompressionError` with the reason if the forward pass cannot be traced.
    """
    graph_module = _trace(copy.deepcopy(network).eval())
    for node in _foldable(graph_module):
        _fold(graph_module, node)
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


@torch.no_grad()
def unfold(network: nn.Module, folded: nn.Module) -> None:
    """Give `network` the weights of a folded copy of it, so that folding it again gives exactly those weights.

    Each batch normalization becomes one that only adds the folded bias. So weights trained after folding are still
    a normal checkpoint, which the same code rebuilds.
    """
    # Copy everything by name: layers that were not folded were trained too. Only the biases made by folding remain.
    network.load_state_dict(folded.state_dict(), strict=False)
    for node in _foldable(_trace(network)):
        name = _source(node)
        own, norm = network.get_submodule(name), network.get_submodule(str(node.target))
        layer = folded.get_submodule(name)
        assert is_layer(own)
        assert is_layer(layer)
        assert layer.bias is not None
        assert isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d)
        _only_add(norm, layer.bias)
        if own.bias is not None:
            own.bias.zero_()


def is_layer(module: nn.Module | None) -> TypeGuard[nn.Conv2d | nn.Linear]:
    """Whether `module` is a Conv2d or Linear, whose weights are quantized."""
    return isinstance(module, nn.Conv2d | nn.Linear)


def module_of(node: fx.Node, graph_module: fx.GraphModule) -> nn.Module | None:
    """Return the module that a node calls, if any."""
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _trace(network: nn.Module) -> fx.GraphModule:
    try:
        graph_module = fx.symbolic_trace(network)
    # The error of a forward pass on symbolic values depends on the user's code.
    except (torch.fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CompressionError(
            f"the network's forward pass cannot be traced by torch.fx: {reason}. Quantization needs a forward pass "
            "without control flow that depends on data or shapes; rewrite it that way."
        ) from error
    inputs = [node for node in graph_module.graph.nodes if node.op == "placeholder" and node.users]
    if len(inputs) != 1:
        raise CompressionError(f"the network takes {len(inputs)} inputs; it must take exactly one, the images.")
    return graph_module


def _foldable(graph_module: fx.GraphModule) -> list[fx.Node]:
    """Return the batch normalizations that are the only readers of a layer's output."""
    calls = Counter(node.target for node in graph_module.graph.nodes if node.op == "call_module")
    return [node for node in graph_module.graph.nodes if _follows_its_layer_alone(node, calls, graph_module)]


def _source(node: fx.Node) -> str:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return str(source.target)


def _only_add(norm: nn.BatchNorm2d | nn.BatchNorm1d, bias: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(-bias)
    norm.running_var.fill_(_unit_variance(norm.eps))
    if norm.affine:
        norm.weight.fill_(1)
        norm.bias.zero_()


def _unit_variance(eps: float) -> float:
    """Return the float32 variance v with exactly 1 / sqrt(v + eps) = 1, so that folding changes no weight."""
    close = torch.tensor(1.0 - eps)
    steps = [close, close.nextafter(torch.tensor(2.0)), close.nextafter(torch.tensor(0.0))]
    return float(next((value for value in steps if torch.rsqrt(value + eps) == 1), close))


def _follows_its_layer_alone(node: fx.Node, calls: Counter[object], graph_module: fx.GraphModule) -> bool:
    """Whether the node is a batch normalization and the only reader of one layer's output."""
    norm = module_of(node, graph_module)
    if not isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d) or norm.running_mean is None:
        return False
    before = node.args[0]
    if not isinstance(before, fx.Node) or len(before.users) != 1 or before.op != "call_module":
        return False
    fits = nn.Conv2d if isinstance(norm, nn.BatchNorm2d) else nn.Linear
    once = calls[node.target] == 1 and calls[before.target] == 1
    return once and isinstance(module_of(before, graph_module), fits)


def _fold(graph_module: fx.GraphModule, node: fx.Node) -> None:
    before = node.args[0]
    assert isinstance(before, fx.Node)
    norm, layer = module_of(node, graph_module), module_of(before, graph_module)
    assert isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d)
    assert is_layer(layer)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    fuse = fuse_conv_bn_weights if isinstance(layer, nn.Conv2d) else fuse_linear_bn_weights
    layer.weight, layer.bias = fuse(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    node.replace_all_uses_with(before)
    graph_module.graph.erase_node(node)
    graph_module.delete_submodule(str(node.target))
