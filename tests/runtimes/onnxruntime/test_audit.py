from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import helper, numpy_helper
from tiny_artifact import OPTIONS
from tiny_onnx import LAYERS, write_float, write_int8

from pipeline.artifacts import Audit, OnnxModel
from pipeline.errors import CompileError
from targets.device.model.onnxruntime_session import OnnxRuntimeSession
from targets.runtimes.onnxruntime.audit import UNKNOWN, audit_graph, why_float


def audit(model: OnnxModel, folder: Path) -> Audit:
    """With the graph that ONNX Runtime really runs here."""
    optimized = folder / "optimized.onnx"
    OnnxRuntimeSession(model.path, OPTIONS, write_optimized=optimized)
    return audit_graph(model, optimized, runtime="ONNX Runtime")


def test_every_planned_layer_runs_in_int8(tmp_path: Path) -> None:
    found = audit(write_int8(tmp_path / "model.onnx"), tmp_path)
    assert (found.int8_nodes, found.float_nodes, found.kept_float) == (4, 0, ())
    assert found.operators["QLinearConv"] == 3
    assert found.operators["QGemm"] == 1


def test_a_float_model_has_all_its_layers_in_float(tmp_path: Path) -> None:
    found = audit(write_float(tmp_path / "model.onnx"), tmp_path)
    assert (found.int8_nodes, found.float_nodes, found.kept_float) == (0, 4, LAYERS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(
            {"relu_zero_point": 10},
            {
                "conv1": "the Relu relu1 after it cannot be removed, because the uint8 zero point 10 is not that "
                "type's minimum",
                "conv2": "the Relu relu2 after it cannot be removed",
            },
            id="a Relu that cannot be dropped",
        ),
        pytest.param(
            {"unquantized": ("conv3",)},
            {"conv3": "its output goes to Add add without being quantized"},
            id="a float addition",
        ),
        pytest.param(
            {"unquantized": ("relu2",)},
            {
                "conv2": "its output goes to Conv conv3 without being quantized",
                "conv3": r"its input relu2\.out is not quantized",
            },
            id="a float tensor between two",
        ),
        pytest.param({"unquantized": ("mean",)}, {"fc": r"its input mean\.out is not quantized"}, id="a float head"),
    ],
)
def test_a_layer_that_falls_back_is_named_with_its_reason(
    tmp_path: Path, change: dict[str, object], named: dict[str, str]
) -> None:
    model = write_int8(tmp_path / "model.onnx", **change)  # type: ignore[arg-type]
    with pytest.raises(CompileError) as caught:
        audit(model, tmp_path)
    lines = str(caught.value).splitlines()
    assert f"{len(named)} of the 4 layers planned in int8 in float" in lines[0]
    assert [line.strip().partition(":")[0] for line in lines[1:-1]] == list(named)
    for layer, reason in named.items():
        caught.match(rf"{layer}: {reason}")


def test_layers_that_the_plan_keeps_in_float_are_listed(tmp_path: Path) -> None:
    written = write_int8(tmp_path / "model.onnx", unquantized=("mean",))
    planned = replace(written, quantized_layers=LAYERS[:3], float_layers=("fc",))
    found = audit(planned, tmp_path)
    assert (found.int8_nodes, found.float_nodes, found.kept_float) == (3, 1, ("fc",))


def test_the_list_of_fallen_layers_ends(tmp_path: Path) -> None:
    model = replace(write_float(tmp_path / "model.onnx"), quantized_layers=tuple(f"c{i}" for i in range(14)))
    with pytest.raises(CompileError, match="and 4 more"):
        audit(model, tmp_path)


def test_a_renamed_weight_is_still_found_by_the_node(tmp_path: Path) -> None:
    """A later ONNX Runtime may rewrite weights; then the node's own name counts."""
    model = write_int8(tmp_path / "model.onnx")
    optimized = tmp_path / "optimized.onnx"
    OnnxRuntimeSession(model.path, OPTIONS, write_optimized=optimized)
    graph = onnx.load(optimized)
    for node in graph.graph.node:
        if node.op_type == "QLinearConv":
            node.input[3] = "rewritten"
    onnx.save(graph, optimized)
    assert audit_graph(model, optimized, runtime="ONNX Runtime").int8_nodes == 4


def test_reasons_read_off_the_graph(tmp_path: Path) -> None:
    model = onnx.load(write_int8(tmp_path / "model.onnx").path)
    assert why_float(model, "conv1") == UNKNOWN
    assert why_float(model, "conv9") == "the file has no node of this name"
    (scale,) = [tensor for tensor in model.graph.initializer if tensor.name == "conv1.bias.scale"]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 2, scale.name))
    assert why_float(model, "conv1") == "the scale of its bias is not input scale times weight scale"
    (fc,) = [node for node in model.graph.node if node.name == "fc"]
    fc.input[1] = "loose"
    assert why_float(model, "fc") == "its weight loose is not quantized"


def test_an_output_of_the_model_is_a_reason(tmp_path: Path) -> None:
    model = onnx.load(write_int8(tmp_path / "model.onnx").path)
    model.graph.output.append(helper.make_tensor_value_info("relu1.out", 1, ["batch", 16, 8, 8]))
    assert "is a model output and not quantized" in why_float(model, "conv1")


def test_a_layer_kept_in_float_that_runs_in_int8_is_named(tmp_path: Path) -> None:
    model = replace(write_int8(tmp_path / "model.onnx"), quantized_layers=LAYERS[:-1], float_layers=LAYERS[-1:])
    with pytest.raises(CompileError, match="runs fc in int8, although the plan keeps it in float"):
        audit(model, tmp_path)
