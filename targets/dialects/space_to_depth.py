"""Rewrite a strided first convolution to read blocks of 2 x 2 pixels as channels; the sums stay the same.

ONNX Runtime's int8 convolution copies one run of `kernel width * channels` bytes per kernel row, for every output.
With the three channels of an image these runs are too short for fast copies (21 bytes for 7 x 7), so the stem takes
longer than its share of the arithmetic. `SpaceToDepth` turns an image [3, H, W] into [12, H/2, W/2]; a kernel of
k x k at stride 2 becomes one of ceil(k/2) or so at stride 1 over it, padded with zero weights. Each output is the sum
of the same integer products, so the outputs are bit-identical.

Vendors' guides recommend the same for layers with few channels, such as Qualcomm's for HTP ("Use Space-to-depth
transformation where possible").
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

BLOCK = 2
LONG_ENOUGH = 4
"""Number of input channels from which the rewrite does not pay: four gained nothing, eight were slower."""


@dataclass(frozen=True)
class _Stem:
    quantize: NodeProto
    conv: NodeProto
    weight: TensorProto
    """The int8 constant [out, in, kh, kw]."""
    size: tuple[int, int]
    """Height and width of the image."""


def fold_stem(model: ModelProto) -> None:
    """Rewrite, in place, the int8 convolution at stride 2 that reads the image, if there is one that gets faster.

    `model` is of the ONNX Runtime dialect: QuantizeLinear, DequantizeLinear, Conv. Other models are not changed.
    """
    stem = _stem(model)
    if stem is None:
        return
    weight = numpy_helper.to_array(stem.weight)
    _, channels, *kernel = weight.shape
    top, left, bottom, right = _integers(stem.conv, "pads", (0, 0, 0, 0))
    rows = _axis(stem.size[0], kernel[0], top, bottom)
    columns = _axis(stem.size[1], kernel[1], left, right)
    if channels >= LONG_ENOUGH or rows is None or columns is None:
        return
    folded = _fold_weights(weight, rows, columns)
    stem.weight.CopyFrom(numpy_helper.from_array(folded, stem.weight.name))
    _replace(stem.conv, "kernel_shape", folded.shape[2:])
    _replace(stem.conv, "pads", (rows.before, columns.before, rows.after, columns.after))
    _replace(stem.conv, "strides", (1, 1))
    image = stem.quantize.input[0]
    blocks = f"{image}.blocks"
    node = helper.make_node("SpaceToDepth", [image], [blocks], name=f"{image}.space_to_depth", blocksize=BLOCK)
    stem.quantize.input[0] = blocks
    model.graph.node.insert(0, node)


@dataclass(frozen=True)
class _Axis:
    shift: int
    """Number of zero taps before the kernel's first, so that the padding is a whole number of blocks."""
    taps: int
    """Size of the new kernel."""
    before: int
    after: int
    """Padding in blocks."""


def _axis(size: int, kernel: int, before: int, after: int) -> _Axis | None:
    """Return one axis of the kernel over blocks; None if image or padding are not a whole number of blocks."""
    if size % BLOCK or kernel <= BLOCK:
        return None
    shift = before % BLOCK
    taps = -(-(kernel + shift) // BLOCK)
    outputs = (size + before + after - kernel) // BLOCK + 1
    start = (before + shift) // BLOCK
    # Stride 1 over the blocks gives size / BLOCK + start + end - taps + 1 outputs.
    end = outputs - size // BLOCK - start + taps - 1
    return _Axis(shift=shift, taps=taps, before=start, after=end) if end >= 0 else None


def _fold_weights(weight: NDArray[np.int8], rows: _Axis, columns: _Axis) -> NDArray[np.int8]:
    """Fold [out, in, kh, kw] to [out, 4 * in, rows, columns]; in `SpaceToDepth` a block's channels are innermost."""
    out, channels, height, width = weight.shape
    padded = np.zeros((out, channels, BLOCK * rows.taps, BLOCK * columns.taps), weight.dtype)
    padded[:, :, rows.shift : rows.shift + height, columns.shift : columns.shift + width] = weight
    blocks = padded.reshape(out, channels, rows.taps, BLOCK, columns.taps, BLOCK)
    arranged = blocks.transpose(0, 3, 5, 1, 2, 4)
    return np.ascontiguousarray(arranged.reshape(out, BLOCK * BLOCK * channels, rows.taps, columns.taps))


def _stem(model: ModelProto) -> _Stem | None:
    """Return the int8 convolution at stride 2 that is the only reader of the model's only input."""
    if len(model.graph.input) != 1:
        return None
    image = model.graph.input[0]
    *_, height, width = (0, 0, *(dimension.dim_value for dimension in image.type.tensor_type.shape.dim))
    quantize = _only_reader(model, image.name, "QuantizeLinear")
    dequantize = None if quantize is None else _only_reader(model, quantize.output[0], "DequantizeLinear")
    conv = None if dequantize is None else _only_reader(model, dequantize.output[0], "Conv")
    if quantize is None or conv is None or not height or not width or not _is_plain(conv):
        return None
    stored = [
        node.input[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.output[0] == conv.input[1]
    ]
    weights = [tensor for tensor in model.graph.initializer if tensor.name in stored]
    return _Stem(quantize=quantize, conv=conv, weight=weights[0], size=(height, width)) if weights else None


def _is_plain(conv: NodeProto) -> bool:
    pads = [attribute.s for attribute in conv.attribute if attribute.name == "auto_pad"]
    return (
        pads in ([], [b"NOTSET"])
        and _integers(conv, "strides", (1, 1)) == (BLOCK, BLOCK)
        and _integers(conv, "dilations", (1, 1)) == (1, 1)
        and _integers(conv, "group", (1,)) == (1,)
    )


def _only_reader(model: ModelProto, tensor: str, operator: str) -> NodeProto | None:
    readers = [node for node in model.graph.node if tensor in node.input]
    return readers[0] if len(readers) == 1 and readers[0].op_type == operator else None


def _integers(node: NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    for attribute in node.attribute:
        if attribute.name == name:
            value = helper.get_attribute_value(attribute)
            return (value,) if isinstance(value, int) else tuple(value)
    return default


def _replace(node: NodeProto, name: str, values: tuple[int, ...]) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(sorted([*kept, helper.make_attribute(name, values)], key=lambda each: each.name))
