"""Faults planted into a right integer file, each of a kind that a writer of dialects could make."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper


@dataclass(frozen=True, kw_only=True)
class Fault:
    kind: str
    place: str
    """The point or layer it sits in."""
    names: tuple[str, ...]
    """Any of which the refusal may name: the place itself, or what is computed from it."""
    plant: Callable[[ModelProto], None]


def faults_of(model: ModelProto) -> list[Fault]:
    """One of each kind at every quantization point and every integer layer of the file."""
    points = [node.name.removesuffix(".quantize") for node in model.graph.node if node.op_type == "QuantizeLinear"]
    scaled = [point for point in points if f"{point}.scale" in _constants(model)]
    layers = [name.removesuffix(".weight.integer") for name in _constants(model) if name.endswith(".weight.integer")]
    found = [
        *(_fault("point's scale", point, _scaled(f"{point}.scale", 1.01)) for point in scaled),
        *(_fault("zero point", point, _shifted(f"{point}.zero_point")) for point in scaled),
        *(_fault("missing point", point, _without(point)) for point in points),
        *(_fault("layer's scale", layer, _scaled(f"{layer}.weight.scale", 1.01)) for layer in layers),
        *(_fault("every other channel's scale", layer, _scaled_channels(layer, 1.01)) for layer in layers),
    ]
    for layer in layers:
        weight = _array(model, f"{layer}.weight.integer")
        scales = _array(model, f"{layer}.weight.scale")
        if weight.shape[0] == weight.shape[1] and np.ptp(scales) > 0.1 * scales.max():
            found.append(_fault("axis", layer, _on_axis(layer, 1)))
    for first, second in itertools.pairwise(scaled):
        one, other = (float(_array(model, f"{point}.scale").item()) for point in (first, second))
        if abs(one - other) > 0.01 * one:
            found.append(_fault("exchanged points", f"{first} and {second}", _exchanged(first, second), first, second))
    return found


def _fault(kind: str, place: str, plant: Callable[[ModelProto], None], *names: str) -> Fault:
    return Fault(kind=kind, place=place, names=names or (place,), plant=plant)


def _constants(model: ModelProto) -> Mapping[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _array(model: ModelProto, name: str) -> NDArray[np.generic]:
    return numpy_helper.to_array(_constants(model)[name])


def _replace(model: ModelProto, name: str, value: NDArray[np.generic]) -> None:
    _constants(model)[name].CopyFrom(numpy_helper.from_array(value, name))


def _scaled(name: str, factor: float) -> Callable[[ModelProto], None]:
    def plant(model: ModelProto) -> None:
        value = _array(model, name).astype(np.float32)
        _replace(model, name, (value * np.float32(factor)).astype(np.float32))

    return plant


def _scaled_channels(layer: str, factor: float) -> Callable[[ModelProto], None]:
    """Not of a single one, which a ReLU may leave without a value."""

    def plant(model: ModelProto) -> None:
        changed = _array(model, f"{layer}.weight.scale").astype(np.float32)
        changed[::2] *= np.float32(factor)
        _replace(model, f"{layer}.weight.scale", changed)

    return plant


def _shifted(name: str) -> Callable[[ModelProto], None]:
    def plant(model: ModelProto) -> None:
        value = _array(model, name)
        _replace(model, name, (value + 1).astype(value.dtype))

    return plant


def _without(point: str) -> Callable[[ModelProto], None]:
    """What reads the dequantized tensor reads the float tensor."""

    def plant(model: ModelProto) -> None:
        nodes = {node.name: node for node in model.graph.node}
        quantize, dequantize = nodes[f"{point}.quantize"], nodes[f"{point}.dequantize"]
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                if name == dequantize.output[0]:
                    node.input[index] = quantize.input[0]
        for node in (quantize, dequantize):
            model.graph.node.remove(node)

    return plant


def _on_axis(layer: str, axis: int) -> Callable[[ModelProto], None]:
    def plant(model: ModelProto) -> None:
        node = next(node for node in model.graph.node if node.name == f"{layer}.weight.dequantize")
        next(attribute for attribute in node.attribute if attribute.name == "axis").i = axis

    return plant


def _exchanged(first: str, second: str) -> Callable[[ModelProto], None]:
    def plant(model: ModelProto) -> None:
        for name in ("scale", "zero_point"):
            one, other = _array(model, f"{first}.{name}"), _array(model, f"{second}.{name}")
            _replace(model, f"{first}.{name}", other)
            _replace(model, f"{second}.{name}", one)

    return plant
