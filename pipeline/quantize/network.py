"""The quantized network: float weights, with points and layers that compute on the device's grid.

A quantized checkpoint is a float checkpoint with `quantization.json`. The network is rebuilt from both; the grid it
computes on is a mode (`quantize.fake_quant.set_mode`), so that one checkpoint serves every
dialect.

Also the saturation-safe variant of a quantized network: the same weights and ranges on a 7-bit grid.

x86 without VNNI adds two products of 8-bit numbers in 16 bits: 2 x 255 x 127 = 64,770 saturates, 2 x 255 x 63 = 32,130
never does. So measurements of the variant on a CPU with VNNI are valid on one without.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

import torch
from torch import fx, nn

from pipeline.artifacts import ActivationRange, Checkpoint, Quantization
from pipeline.errors import CheckpointError, CompressionError, RecipeError
from pipeline.models.checkpoint import build_network, save_network
from pipeline.models.folding import is_layer, module_of, trace_folded
from pipeline.quantize.fake_quant import Mode, Point, QuantizedConv2d, QuantizedLinear, Quantizer, set_mode
from pipeline.quantize.placement import Plan, plan_points

POINTS = "points"


def prepare(network: nn.Module, *, weight_bits: Literal[7, 8], keep_float: Iterable[str] = ()) -> fx.GraphModule:
    """Return a copy of a float network with its points inserted, in float mode and not yet calibrated.

    Raises `RecipeError` for a name in `keep_float` that is not a Conv2d or Linear of the network.
    """
    graph_module = trace_folded(network)
    float_layers = frozenset(keep_float)
    _check_names(float_layers, _layer_calls(graph_module))
    return insert_points(graph_module, weight_bits=weight_bits, float_layers=float_layers)


def insert_points(
    graph_module: fx.GraphModule, *, weight_bits: Literal[7, 8], float_layers: Iterable[str]
) -> fx.GraphModule:
    """Insert points and quantized layers into a traced, folded network, in place."""
    plan = plan_points(graph_module, float_layers)
    points = _add_points(graph_module, plan)
    calls = _layer_calls(graph_module)
    for name, source in plan.sources.items():
        if calls[name] > 1:
            raise CompressionError(
                f"the layer {name} is called {calls[name]} times, so its bias has no unique grid. "
                "Use a separate layer for each call, or keep it in float with keep_float."
            )
        graph_module.set_submodule(name, _quantized_layer(graph_module, name, points[source], weight_bits))
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def build_quantized(checkpoint: Checkpoint, *, also_float: Iterable[str] = ()) -> fx.GraphModule:
    """Return the network of a quantized checkpoint, in evaluation mode, on ONNX Runtime's grid.

    `also_float`: layers to keep in float besides the checkpoint's; all scales stay the same.
    """
    quantization = checkpoint.quantization
    graph_module = trace_folded(build_network(checkpoint))
    float_layers = {*quantization.float_layers, *also_float}
    insert_points(graph_module, weight_bits=quantization.weight_bits, float_layers=float_layers)
    set_ranges(graph_module, quantization.activations)
    for name, layer in quantized_layers(graph_module).items():
        scales = quantization.weights.get(name, ())
        if len(scales) != len(layer.weight):
            raise CheckpointError(
                f"quantization.json has {len(scales)} scales for the {len(layer.weight)} channels of {name}; "
                "it belongs to another network."
            )
        layer.quantizer.scales = torch.tensor(scales, dtype=torch.float32)
    set_mode(graph_module, Mode.ONNXRUNTIME)
    return graph_module.eval()


def with_float(checkpoint: Checkpoint, also_float: Iterable[str]) -> tuple[fx.GraphModule, Quantization]:
    """Return the same as `build_quantized`, and its quantization parameters."""
    before, also_float = checkpoint.quantization, frozenset(also_float)
    network = build_quantized(checkpoint, also_float=also_float)
    float_layers = {*before.float_layers, *also_float}
    return network, quantization_of(network, weight_bits=before.weight_bits, float_layers=float_layers)


def requantize(checkpoint: Checkpoint, *, weight_bits: Literal[7, 8]) -> Quantization:
    """Return a quantized checkpoint's parameters for another weight width; ranges and float layers stay."""
    quantization = checkpoint.quantization
    graph_module = trace_folded(build_network(checkpoint))
    insert_points(graph_module, weight_bits=weight_bits, float_layers=quantization.float_layers)
    set_ranges(graph_module, quantization.activations)
    return quantization_of(graph_module, weight_bits=weight_bits, float_layers=quantization.float_layers)


def set_ranges(network: nn.Module, ranges: Mapping[str, ActivationRange]) -> None:
    """Set every point's clipping range."""
    for point in points_of(network):
        if point.name not in ranges:
            raise CheckpointError(f"quantization.json has no range for {point.name}; it belongs to another network.")
        point.range = ranges[point.name]


def quantization_of(network: nn.Module, *, weight_bits: Literal[7, 8], float_layers: Iterable[str]) -> Quantization:
    """Return the calibrated network's parameters as data."""
    weights = {
        name: tuple(layer.quantizer.current_scales(layer.weight, layer.bias).tolist())
        for name, layer in quantized_layers(network).items()
    }
    return Quantization(
        weight_bits=weight_bits,
        activations={point.name: point.known_range() for point in points_of(network)},
        weights=weights,
        float_layers=tuple(sorted(float_layers)),
    )


def points_of(network: nn.Module) -> list[Point]:
    return [module for module in network.modules() if isinstance(module, Point)]


def quantized_layers(network: nn.Module) -> dict[str, QuantizedConv2d | QuantizedLinear]:
    """Return the layers that compute on integers, by name."""
    modules = network.named_modules()
    return {name: module for name, module in modules if isinstance(module, QuantizedConv2d | QuantizedLinear)}


def _add_points(graph_module: fx.GraphModule, plan: Plan) -> dict[str, Point]:
    points: dict[str, Point] = {}
    # Names of points contain dots, which module names cannot; so the modules are numbered.
    targets: dict[str, str] = {}
    graph_module.add_module(POINTS, nn.Module())
    for site in plan.sites:
        if site.name not in points:
            points[site.name] = Point(site.name, post_relu=site.post_relu)
            targets[site.name] = f"{POINTS}.{len(targets)}"
            graph_module.add_submodule(targets[site.name], points[site.name])
        users = list(site.node.users)
        with graph_module.graph.inserting_after(site.node):
            call = graph_module.graph.call_module(targets[site.name], (site.node, site.tensorrt))
        for user in users:
            user.replace_input_with(site.node, call)
    return points


def _quantized_layer(
    graph_module: fx.GraphModule, name: str, source: Point, weight_bits: Literal[7, 8]
) -> QuantizedConv2d | QuantizedLinear:
    layer = graph_module.get_submodule(name)
    quantizer = Quantizer(name, source, weight_bits)
    if isinstance(layer, nn.Conv2d):
        return QuantizedConv2d(layer, quantizer)
    assert isinstance(layer, nn.Linear)
    return QuantizedLinear(layer, quantizer)


def _layer_calls(graph_module: fx.GraphModule) -> Counter[str]:
    """Return how often each Conv2d and Linear is called."""
    nodes = graph_module.graph.nodes
    return Counter(str(node.target) for node in nodes if is_layer(module_of(node, graph_module)))


def _check_names(float_layers: frozenset[str], layers: Iterable[str]) -> None:
    known = list(layers)
    for name in sorted(float_layers):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."
            raise RecipeError(f"keep_float names {name!r}, which is not a Conv2d or Linear of the network. {hint}")
    if float_layers.issuperset(known):
        raise RecipeError(
            f"keep_float names all {len(known)} layers, so nothing is left to quantize. "
            "Leave some out, or build for precision fp32 only."
        )


WEIGHT_BITS: Final = 7


def derive(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the network of `checkpoint` and its `quantization.json` for 7-bit weights into `folder`."""
    save_network(build_network(checkpoint), checkpoint.architecture, folder)
    (folder / "quantization.json").write_text(requantize(checkpoint, weight_bits=WEIGHT_BITS).to_json())
