"""A strided stem reads blocks of pixels, and every answer stays the same, bit for bit."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tiny_quantized import exported

from pipeline.artifacts import Dialect
from targets.device.model.onnxruntime_session import PROVIDER, ort_options
from targets.dialects.space_to_depth import fold_stem

Pads = tuple[int, int, int, int]
"""Top, left, bottom, right."""


def stem(
    *,
    kernel: tuple[int, int] = (7, 7),
    pads: Pads = (3, 3, 3, 3),
    size: tuple[int, int] = (16, 16),
    channels: int = 3,
    strides: tuple[int, int] = (2, 2),
    dilations: tuple[int, int] = (1, 1),
    group: int = 1,
    batch: int | str = "batch",
) -> ModelProto:
    """An int8 convolution of 8 channels over an image, as the ONNX Runtime dialect writes it."""
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.001, 0.01, 8).astype(np.float32)
    constants = {
        "x.scale": np.float32(0.03), "x.zero_point": np.uint8(114),
        # Of 7 bits: on x86 without VNNI sums of 8-bit products saturate, in another order otherwise.
        "w.integer": rng.integers(-63, 64, (8, channels // group, *kernel)).astype(np.int8),
        "w.scale": scales, "w.zero_point": np.zeros(8, np.int8),
        "b.integer": rng.integers(-1000, 1000, 8).astype(np.int32),
        "b.scale": np.float32(0.03) * scales, "b.zero_point": np.zeros(8, np.int32),
        "y.scale": np.float32(0.1), "y.zero_point": np.uint8(128),
    }  # fmt: skip

    def grid(name: str) -> list[str]:
        return [f"{name}.scale", f"{name}.zero_point"]

    nodes = [
        helper.make_node("QuantizeLinear", ["images", *grid("x")], ["x"]),
        helper.make_node("DequantizeLinear", ["x", *grid("x")], ["x.value"]),
        helper.make_node("DequantizeLinear", ["w.integer", *grid("w")], ["w.value"], axis=0),
        helper.make_node("DequantizeLinear", ["b.integer", *grid("b")], ["b.value"], axis=0),
        helper.make_node(
            "Conv", ["x.value", "w.value", "b.value"], ["conv"], name="conv1", kernel_shape=kernel, pads=pads,
            strides=strides, dilations=dilations, group=group,
        ),
        helper.make_node("QuantizeLinear", ["conv", *grid("y")], ["y"]),
        helper.make_node("DequantizeLinear", ["y", *grid("y")], ["answers"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "stem",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, channels, *size])],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, [batch, 8, None, None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def folded(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    fold_stem(copy)
    onnx.checker.check_model(copy)
    return copy


def is_folded(model: ModelProto) -> bool:
    return any(node.op_type == "SpaceToDepth" for node in folded(model).graph.node)


def run(model: ModelProto, images: NDArray[np.float32], optimized: Path) -> tuple[NDArray[np.float32], list[str]]:
    """The answers, and what ONNX Runtime computed them by."""
    options = ort_options({"intra_op_num_threads": 1})
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[PROVIDER])
    answers: NDArray[np.float32] = session.run(None, {"images": images})[0]
    return answers, [node.op_type for node in onnx.load(optimized).graph.node]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (10, 24)], ids=str)
@pytest.mark.parametrize(
    ("kernel", "pads"),
    [
        ((7, 7), (3, 3, 3, 3)),
        ((7, 7), (0, 0, 0, 0)),
        ((7, 7), (2, 3, 3, 2)),
        ((5, 5), (2, 2, 2, 2)),
        ((4, 4), (1, 1, 1, 1)),
        ((3, 3), (1, 1, 1, 1)),
        ((3, 3), (0, 0, 1, 1)),
        ((3, 3), (0, 0, 0, 0)),
        ((3, 5), (1, 2, 1, 2)),
    ],
    ids=str,
)
def test_every_answer_is_the_same_to_the_bit(
    kernel: tuple[int, int], pads: Pads, size: tuple[int, int], channels: int, tmp_path: Path
) -> None:
    plain = stem(kernel=kernel, pads=pads, size=size, channels=channels)
    # Beyond the grid's ends, too, so that padding and clipping meet.
    images = np.random.default_rng(1).normal(0, 3, (2, channels, *size)).astype(np.float32)
    expected, before = run(plain, images, tmp_path / "plain.onnx")
    answers, after = run(folded(plain), images, tmp_path / "folded.onnx")
    assert len(np.unique(expected)) > 50
    assert np.array_equal(answers, expected)
    assert ("SpaceToDepth" in after, "SpaceToDepth" in before) == (True, False)
    assert ("QLinearConv" in after, "Conv" in after) == (True, False)


@pytest.mark.parametrize(
    "unfit",
    [
        pytest.param({"channels": 4}, id="runs long enough"),
        pytest.param({"size": (15, 16)}, id="odd height"),
        pytest.param({"size": (16, 15)}, id="odd width"),
        pytest.param({"strides": (1, 1)}, id="stride 1"),
        pytest.param({"strides": (2, 1)}, id="strides that differ"),
        pytest.param({"dilations": (2, 2)}, id="dilated"),
        pytest.param({"channels": 2, "group": 2}, id="grouped"),
        pytest.param({"kernel": (2, 2), "pads": (0, 0, 0, 0)}, id="patches"),
        pytest.param({"kernel": (1, 1), "pads": (0, 0, 0, 0)}, id="pixels"),
    ],
)
def test_what_would_gain_nothing_or_does_not_come_out_even_is_left_as_it_is(unfit: dict[str, object]) -> None:
    plain = stem(**unfit)  # type: ignore[arg-type]
    assert folded(plain).SerializeToString() == plain.SerializeToString()
    assert is_folded(stem())


def test_an_image_of_unknown_size_is_left_as_it_is() -> None:
    plain = stem()
    plain.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    assert not is_folded(plain)


def test_an_image_that_something_else_reads_too_is_left_as_it_is() -> None:
    plain = stem()
    plain.graph.node.append(helper.make_node("Relu", ["x.value"], ["again"]))
    assert not is_folded(plain)


def test_a_stem_in_float_is_left_as_it_is() -> None:
    plain = stem()
    weight = next(node for node in plain.graph.node if node.input[0] == "w.integer")
    kept = [node for node in plain.graph.node if node is not weight and node.output[0] != "w.value"]
    del plain.graph.node[:]
    plain.graph.node.extend(kept)
    plain.graph.initializer.append(numpy_helper.from_array(np.ones((8, 3, 7, 7), np.float32), "w.value"))
    assert not is_folded(plain)


def test_padding_that_its_author_left_to_the_runtime_is_left_as_it_is() -> None:
    plain = stem()
    plain.graph.node[4].attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))
    assert not is_folded(plain)


@pytest.mark.slow
def test_the_stem_of_an_exported_network_is_folded_for_onnx_runtime_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    files = exported("bottleneck", tmp_path_factory).models
    graphs = {dialect: onnx.load(model.path).graph for dialect, model in files.items()}
    assert [graphs[Dialect.ONNXRUNTIME].node[0].op_type, graphs[Dialect.ONNXRUNTIME].node[0].name] == [
        "SpaceToDepth",
        "images.space_to_depth",
    ]
    for dialect in (Dialect.FLOAT, Dialect.TENSORRT):
        assert "SpaceToDepth" not in [node.op_type for node in graphs[dialect].node]
    weights = {tensor.name: tuple(tensor.dims) for tensor in graphs[Dialect.ONNXRUNTIME].initializer}
    assert weights["conv1.weight.integer"][1:] == (12, 4, 4)
