"""What each runtime demands of its file, checked on real exports, and by ONNX Runtime itself."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper
from tiny_quantized import NETWORKS, Exported, exported, float_network, marked

from pipeline.artifacts import Audit, Dialect, OnnxModel, Quantization
from pipeline.errors import CompileError, ExportError
from targets.dialects.write import write_dialect
from targets.runtimes.onnxruntime.runtime import OnnxRuntimeCpu
from targets.target import find_target

LAYERS = {"option A": 7, "option B": 9, "bottleneck": 13}
ADDITIONS = {kind: sum(architecture.depths) for kind, architecture in NETWORKS.items()}
INTEGER = (Dialect.ONNXRUNTIME, Dialect.TENSORRT)


class Graph:
    """A written file, to ask questions of."""

    def __init__(self, model: ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.made_by = {output: node for node in model.graph.node for output in node.output}

    def of(self, *operators: str) -> list[NodeProto]:
        return [node for node in self.nodes if node.op_type in operators]

    def maker(self, name: str) -> str:
        """The operator that computes a tensor; nothing for constants and inputs."""
        return self.made_by[name].op_type if name in self.made_by else ""

    def scale(self, dequantized: str) -> NDArray[np.float32]:
        return self.constants[self.made_by[dequantized].input[1]]


@pytest.fixture(params=NETWORKS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def files(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(kind, tmp_path_factory)


def graph_of(files: Exported, dialect: Dialect) -> Graph:
    return Graph(onnx.load(files.models[dialect].path))


def audit(model: OnnxModel) -> Audit:
    runtime = OnnxRuntimeCpu()
    return runtime.audit(model, options=runtime.session_options(find_target("cpu"), threads=1))


def test_onnx_runtime_runs_every_layer_and_every_addition_in_int8(kind: str, files: Exported) -> None:
    model = files.models[Dialect.ONNXRUNTIME]
    assert len(model.quantized_layers) == LAYERS[kind]
    found = audit(model)
    assert (found.int8_nodes, found.float_nodes) == (LAYERS[kind], 0)
    counts = found.operators
    assert counts["QLinearConv"] == LAYERS[kind] - 1
    assert counts["QGemm"] == 1
    assert counts["QLinearAdd"] == ADDITIONS[kind]
    assert not {"Conv", "FusedConv", "Gemm", "Relu", "Add", "DequantizeLinear"} & counts.keys()
    assert counts["QuantizeLinear"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "keep_float"),
    [
        pytest.param("option A", ("conv1", "fc"), id="first and last"),
        pytest.param("option A", ("layer1.0.conv2", "layer2.0.downsample.0"), id="both sides of an addition"),
        pytest.param("bottleneck", ("layer1.0.conv1", "layer1.0.conv3"), id="around an integer layer"),
    ],
)
def test_what_is_kept_in_float_stays_float_and_is_listed(
    network: str, keep_float: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = exported(network, tmp_path_factory, keep_float=keep_float)
    model = files.models[Dialect.ONNXRUNTIME]
    found = audit(model)
    assert set(model.float_layers) == set(found.kept_float) == set(keep_float)
    # ONNX Runtime would quantize a float weight by itself if its input came straight from a DequantizeLinear.
    assert (found.int8_nodes, found.float_nodes) == (LAYERS[network] - len(keep_float), len(keep_float))
    assert model.parity.max_abs_difference < 1e-4 * model.parity.logit_range
    assert files.models[Dialect.TENSORRT].float_layers == model.float_layers
    integers = Graph(onnx.load(files.models[Dialect.TENSORRT].path))
    floats = {node.name for node in integers.of("Conv", "Gemm") if integers.maker(node.input[1]) == ""}
    assert floats == set(keep_float)


def test_the_audit_sees_a_layer_that_fell_back(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """The proof that the audits above can fail: TensorRT's file, held against the plan by ONNX Runtime."""
    model = exported("option A", tmp_path_factory).models[Dialect.TENSORRT]
    with pytest.raises(CompileError, match="of the 7 layers planned in int8 in float"):
        audit(model)


def test_tensorrt_takes_no_zero_points_and_int8_alone(files: Exported) -> None:
    graph = graph_of(files, Dialect.TENSORRT)
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        zero_point = graph.constants[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
        assert (graph.constants[node.input[1]] > 0).all()


def test_tensorrt_scales_activations_as_a_whole_and_weights_by_channel(files: Exported) -> None:
    graph = graph_of(files, Dialect.TENSORRT)
    assert all(graph.constants[node.input[1]].shape == () for node in graph.of("QuantizeLinear"))
    for layer in graph.of("Conv", "Gemm"):
        dequantize = graph.made_by[layer.input[1]]
        assert [attribute.i for attribute in dequantize.attribute if attribute.name == "axis"] == [0]
        integers = graph.constants[dequantize.input[0]]
        assert graph.scale(layer.input[1]).shape == integers.shape[:1]


def test_tensorrt_keeps_biases_in_float(files: Exported) -> None:
    graph = graph_of(files, Dialect.TENSORRT)
    biases = [layer.input[2] for layer in graph.of("Conv", "Gemm") if len(layer.input) == 3]
    assert biases
    assert all(graph.constants[name].dtype == np.float32 for name in biases)
    assert not any(value.dtype == np.int32 for value in graph.constants.values())


def test_tensorrt_quantizes_the_shortcut_of_an_addition_alone(kind: str, files: Exported) -> None:
    graph = graph_of(files, Dialect.TENSORRT)
    additions = graph.of("Add")
    assert len(additions) == ADDITIONS[kind]
    for addition in additions:
        assert sorted(graph.maker(name) for name in addition.input) == ["Conv", "DequantizeLinear"]


def test_tensorrt_reads_every_layer_from_integers(files: Exported) -> None:
    graph = graph_of(files, Dialect.TENSORRT)
    for layer in graph.of("Conv", "Gemm"):
        source = graph.made_by[layer.input[0]]
        # Reshaping and pooling the largest are moved past by TensorRT.
        while source.op_type in ("Reshape", "Flatten", "MaxPool"):
            source = graph.made_by[source.input[0]]
        assert source.op_type == "DequantizeLinear", layer.name


def test_onnx_runtime_reads_weights_and_biases_on_their_own_grids(files: Exported) -> None:
    graph = graph_of(files, Dialect.ONNXRUNTIME)
    for layer in graph.of("Conv", "Gemm"):
        assert [graph.maker(name) for name in layer.input] == ["DequantizeLinear"] * len(layer.input)
        x, w, *b = (graph.scale(name) for name in layer.input)
        assert all(np.array_equal(scale, x * w) for scale in b)
    for node in graph.of("QuantizeLinear"):
        assert graph.constants[node.input[2]].dtype == np.uint8
        follows_relu = graph.maker(node.input[0]) == "Relu"
        assert graph.constants[node.input[2]] == 0 or not follows_relu


@pytest.mark.parametrize("dialect", INTEGER)
def test_weights_of_seven_bits_use_63_on_both_sides_and_no_more(files: Exported, dialect: Dialect) -> None:
    graph = graph_of(files, dialect)
    for layer in graph.of("Conv", "Gemm"):
        integers = graph.constants[graph.made_by[layer.input[1]].input[0]]
        assert integers.dtype == np.int8
        assert np.abs(integers.astype(int)).max() == 63


def test_nothing_is_left_of_markers_constants_and_notes(files: Exported) -> None:
    for model in files.models.values():
        written = onnx.load(model.path)
        assert {entry.domain for entry in written.opset_import} == {""}
        assert {node.domain for node in written.graph.node} == {""}
        used = {name for node in written.graph.node for name in node.input}
        assert {tensor.name for tensor in written.graph.initializer} <= used
        assert not any(node.doc_string or node.metadata_props for node in written.graph.node)
        names = [node.name for node in written.graph.node]
        assert len(names) == len(set(names))


def test_the_float_dialect_is_the_network_without_a_trace_of_integers(kind: str, files: Exported) -> None:
    graph = graph_of(files, Dialect.FLOAT)
    assert not graph.of("QuantizeLinear", "DequantizeLinear", "Clip")
    assert all(value.dtype in (np.float32, np.int64) for value in graph.constants.values())
    model = files.models[Dialect.FLOAT]
    assert (len(model.float_layers), model.quantized_layers) == (LAYERS[kind], ())
    assert set(model.float_layers) == set(files.models[Dialect.ONNXRUNTIME].quantized_layers)


@pytest.fixture(scope="module")
def plain() -> tuple[ModelProto, Quantization]:
    return marked(float_network("option A"))


def test_weights_of_eight_bits_use_127(plain: tuple[ModelProto, Quantization]) -> None:
    graph = Graph(write_dialect(*plain, Dialect.ONNXRUNTIME))
    for layer in graph.of("Conv", "Gemm"):
        integers = graph.constants[graph.made_by[layer.input[1]].input[0]]
        assert np.abs(integers.astype(int)).max() == 127


def test_weights_that_do_not_fit_their_scale_are_clipped(plain: tuple[ModelProto, Quantization]) -> None:
    """Scales of eight bits, taken for seven: twice too small."""
    model, quantization = plain
    graph = Graph(write_dialect(model, replace(quantization, weight_bits=7), Dialect.TENSORRT))
    for layer in graph.of("Conv", "Gemm"):
        integers = graph.constants[graph.made_by[layer.input[1]].input[0]]
        assert np.abs(integers.astype(int)).max() == 63


def test_the_same_input_gives_the_same_bytes(plain: tuple[ModelProto, Quantization]) -> None:
    model, quantization = plain
    again = ModelProto.FromString(model.SerializeToString())
    for dialect in Dialect:
        first, second = (write_dialect(source, quantization, dialect) for source in (model, again))
        assert first.SerializeToString() == second.SerializeToString()


@pytest.mark.parametrize("dialect", INTEGER)
def test_a_network_without_parameters_has_no_integers_to_write(
    dialect: Dialect, plain: tuple[ModelProto, Quantization]
) -> None:
    with pytest.raises(ExportError, match=f"not quantized, so it cannot be written for {dialect}"):
        write_dialect(plain[0], None, dialect)
    unmarked = write_dialect(plain[0], None, Dialect.FLOAT)
    with pytest.raises(ExportError, match="not quantized"):
        write_dialect(unmarked, None, dialect)


@pytest.mark.parametrize("dialect", INTEGER)
def test_parameters_and_graph_have_to_belong_together(
    dialect: Dialect, plain: tuple[ModelProto, Quantization]
) -> None:
    model, quantization = plain
    for field, name, message in (
        ("activations", "layer1.0.add", r"no range for layer1\.0\.add"),
        ("weights", "layer1.0.conv2", r"no scales for layer1\.0\.conv2"),
    ):
        known = Quantization.from_json(quantization.to_json())
        del getattr(known, field)[name]
        with pytest.raises(ExportError, match=message):
            write_dialect(model, known, dialect)
    surplus = Quantization.from_json(quantization.to_json())
    surplus.weights["layer9.conv"] = (1.0,)
    with pytest.raises(ExportError, match=r"layer9\.conv: quantized, but not a Conv or Gemm"):
        write_dialect(model, surplus, dialect)


def changed(model: ModelProto) -> Iterator[tuple[ModelProto, str]]:
    """Graphs that another exporter might write, and what is wrong with them."""
    transposed = ModelProto.FromString(model.SerializeToString())
    gemm = next(node for node in transposed.graph.node if node.op_type == "Gemm")
    next(attribute for attribute in gemm.attribute if attribute.name == "transB").i = 0
    yield transposed, "fc is exported as a Gemm with transposed weight"
    computed = ModelProto.FromString(model.SerializeToString())
    next(node for node in computed.graph.node if node.op_type == "Weight").input[0] = "images"
    yield computed, "images is computed at run time"


def test_weights_that_are_not_as_expected_are_refused(plain: tuple[ModelProto, Quantization]) -> None:
    for model, message in changed(plain[0]):
        with pytest.raises(ExportError, match=message):
            write_dialect(model, plain[1], Dialect.TENSORRT)
