"""Export of the float graph with its quantization points marked, from which all dialects are written.

The exporter takes seconds for any output, so it runs once, independent of the dialect.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import nn

from pipeline.errors import ExportError
from pipeline.quantize.fake_quant import Mode, set_mode

# From 2023; supported by ONNX Runtime since 1.17 and TensorRT since 10.
OPSET = 20
INPUT, OUTPUT, BATCH = "images", "logits", "batch"


def export_marked(network: nn.Module, input_shape: tuple[int, int, int]) -> ModelProto:
    """Return the network in marked mode as ONNX: input `images` [batch, C, H, W], output `logits` [batch, classes].

    Raises `ExportError` with the exporter's reason.
    """
    set_mode(network, Mode.MARKED)
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (torch.zeros(2, *input_shape),),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise ExportError(
            f"PyTorch cannot export the network to ONNX: {reason}. Avoid operations whose shape depends on data; "
            "the batch size must be dynamic."
        ) from error
    finally:
        set_mode(network, Mode.FLOAT)
    assert program is not None
    model = program.model_proto
    _pool_globally(model)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's notes about its internals and about torchvision operators that no ResNet has."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def _pool_globally(model: ModelProto) -> None:
    """Write the mean over height and width as GlobalAveragePool, which runtimes run in int8, unlike ReduceMean."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "ReduceMean" and len(node.input) == 2 and ranks.get(node.input[0]) == 4:
            axes = constants.get(node.input[1])
            if axes is not None and sorted(numpy_helper.to_array(axes) % 4) == [2, 3]:
                nodes += _global_pooling(node)
                continue
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _global_pooling(node: NodeProto) -> list[NodeProto]:
    keeps = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
    source, target = node.input[0], node.output[0]
    if keeps:
        return [helper.make_node("GlobalAveragePool", [source], [target], name=node.name)]
    pooled = f"{target}_pooled"
    return [
        helper.make_node("GlobalAveragePool", [source], [pooled], name=node.name),
        helper.make_node("Flatten", [pooled], [target], name=f"{node.name}_flatten", axis=1),
    ]
