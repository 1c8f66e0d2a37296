"""Run an ONNX file and return the integer tensors between its layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from targets.device.errors import SessionError
from targets.device.model.manifest import Option
from targets.device.model.onnxruntime_session import ORT_ERRORS, PROVIDER, OnnxRuntimeSession, ort_options

QUANTIZE = "QuantizeLinear"
Integers = NDArray[np.uint8] | NDArray[np.int8]


@dataclass(frozen=True, kw_only=True)
class Exposed:
    logits: NDArray[np.float32]
    """[N, C]"""
    integers: Mapping[str, Integers]
    """Output of each QuantizeLinear, by the node's name without `.quantize`, in graph order."""
    is_undisturbed: bool
    """Whether the unmodified file gives bit-identical logits, so that the extra outputs changed no fusion."""


def run_exposed(path: Path, images: NDArray[np.float32], options: Mapping[str, Option]) -> Exposed:
    """Run `images` [N, 3, H, W] through the file at `path`; raise `SessionError` if it does not open or run."""
    with OnnxRuntimeSession(path, options) as session:
        undisturbed = session.infer(images)
    model = onnx.load(path)
    (output,) = (value.name for value in model.graph.output)
    nodes = [node for node in model.graph.node if node.op_type == QUANTIZE]
    for node in nodes:
        model.graph.output.add().name = node.output[0]
    try:
        opened = ort.InferenceSession(model.SerializeToString(), ort_options(options), providers=[PROVIDER])
        wanted = [output, *(node.output[0] for node in nodes)]
        logits, *tensors = opened.run(wanted, {opened.get_inputs()[0].name: images})
    except ORT_ERRORS as error:
        raise SessionError(
            f"ONNX Runtime {ort.__version__} cannot output the inner tensors of {path}: {error}"
        ) from None
    integers = {
        node.name.removesuffix(".quantize"): _in_pixels(model, node, tensor)
        for node, tensor in zip(nodes, tensors, strict=True)
    }
    return Exposed(logits=logits, integers=integers, is_undisturbed=bool(np.array_equal(logits, undisturbed)))


def _in_pixels(model: ModelProto, quantize: NodeProto, tensor: Integers) -> Integers:
    """Undo a SpaceToDepth: [N, 4 C, H / 2, W / 2] to [N, C, H, W]; return other tensors unchanged."""
    maker = next((node for node in model.graph.node if node.output[0] == quantize.input[0]), None)
    if maker is None or maker.op_type != "SpaceToDepth":
        return tensor
    block = next(attribute.i for attribute in maker.attribute if attribute.name == "blocksize")
    count, channels, height, width = tensor.shape
    blocks = tensor.reshape(count, block, block, channels // block**2, height, width)
    return blocks.transpose(0, 3, 4, 1, 5, 2).reshape(count, channels // block**2, height * block, width * block)
