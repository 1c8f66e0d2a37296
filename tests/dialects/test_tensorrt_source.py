"""The file each TensorRT is given: opset 17 for version 8, float16 from 10.12 on; run by ONNX Runtime, too."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tiny_quantized import NETWORKS, float_network, marked, noise

from pipeline.artifacts import Dialect, Precision
from pipeline.errors import ExportError
from targets.device.model.onnxruntime_session import OnnxRuntimeSession
from targets.dialects.tensorrt_rules import violations
from targets.dialects.tensorrt_source import in_half, source_for, with_opset_17
from targets.dialects.write import write_dialect

UNOPTIMIZED = {"graph_optimization_level": "disable"}


@cache
def serialized(kind: str, dialect: Dialect) -> bytes:
    model, quantization = marked(float_network(kind))
    return bytes(write_dialect(model, quantization, dialect).SerializeToString())


def written(kind: str, dialect: Dialect) -> ModelProto:
    model: ModelProto = ModelProto.FromString(serialized(kind, dialect))
    return model


def answers(model: ModelProto, folder: Path) -> NDArray[np.float32]:
    path = folder / "model.onnx"
    onnx.save(model, path)
    with OnnxRuntimeSession(path, UNOPTIMIZED) as session:
        return session.infer(noise(32, seed=3).numpy())


def opset(model: ModelProto) -> int:
    return int(next(entry.version for entry in model.opset_import if entry.domain == ""))


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [Dialect.FLOAT, Dialect.TENSORRT])
@pytest.mark.parametrize("kind", NETWORKS)
def test_half_computes_in_half_and_answers_alike(kind: str, dialect: Dialect, tmp_path: Path) -> None:
    model = written(kind, dialect)
    half = in_half(model)
    wanted, found = answers(model, tmp_path), answers(half, tmp_path)
    assert found.dtype == np.float32
    if dialect is Dialect.FLOAT:
        limit = 1e-3 * np.ptp(wanted)
    else:
        # A value on the edge between two steps falls to the other side: less than what the steps cost themselves.
        limit = np.abs(wanted - answers(written(kind, Dialect.FLOAT), tmp_path)).mean()
    assert np.abs(found - wanted).mean() < limit
    assert (found.argmax(1) == wanted.argmax(1)).mean() >= 0.9
    assert not np.array_equal(found, wanted)
    kinds = {tensor.data_type for tensor in half.graph.initializer}
    assert TensorProto.FLOAT not in kinds
    assert TensorProto.FLOAT16 in kinds
    casts = [node.name for node in half.graph.node if node.op_type == "Cast"]
    assert casts == ["images.cast", "logits.cast"]
    for value in (*half.graph.input, *half.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT


@pytest.mark.parametrize("kind", NETWORKS)
def test_half_keeps_tensorrts_rules_and_the_names_of_its_layers(kind: str) -> None:
    model = written(kind, Dialect.TENSORRT)
    half = in_half(model)
    layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert violations(half, planned=layers) == []


@pytest.mark.parametrize("dialect", [Dialect.FLOAT, Dialect.TENSORRT])
@pytest.mark.parametrize("kind", NETWORKS)
def test_opset_17_is_the_same_graph(kind: str, dialect: Dialect, tmp_path: Path) -> None:
    model = written(kind, dialect)
    old = with_opset_17(model)
    assert (opset(model), opset(old), old.ir_version) == (20, 17, 8)
    assert [node.SerializeToString() for node in old.graph.node] == [
        node.SerializeToString() for node in model.graph.node
    ]
    assert np.array_equal(answers(model, tmp_path), answers(old, tmp_path))


def test_each_version_gets_its_own(tmp_path: Path) -> None:
    quantized, plain = (written("option A", dialect) for dialect in (Dialect.TENSORRT, Dialect.FLOAT))
    partly = write_dialect(*marked(float_network("option A"), keep_float=("conv1",)), Dialect.TENSORRT)
    for version in ("8.5.2.2", "8.6.2.3"):
        assert opset(source_for(quantized, version, Precision.INT8)) == 17
        assert source_for(plain, version, Precision.FP16) == with_opset_17(plain)
    for version in ("10.3.0.30", "10.11.0.33"):
        assert source_for(quantized, version, Precision.INT8) == quantized
        assert source_for(plain, version, Precision.FP16) == plain
    for version in ("10.12.0.36", "10.16.2.10", "11.4.1.1"):
        assert source_for(quantized, version, Precision.INT8) == quantized
        assert source_for(partly, version, Precision.INT8) == in_half(partly)
        assert source_for(plain, version, Precision.FP16) == in_half(plain)
        assert source_for(plain, version, Precision.FP32) == plain


def test_the_original_stays_as_it_was() -> None:
    model = written("option A", Dialect.TENSORRT)
    before = model.SerializeToString()
    in_half(model)
    with_opset_17(model)
    assert model.SerializeToString() == before


def test_numbers_that_half_cannot_hold_are_refused() -> None:
    model = written("option A", Dialect.FLOAT)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "conv1.weight")
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = 1e6
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match=r"conv1\.weight contains 1e\+06, which is beyond float16; build fp32"):
        in_half(model)


def test_a_scale_stays_above_zero() -> None:
    model = written("option A", Dialect.TENSORRT)
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "conv1.weight.scale")
    values = numpy_helper.to_array(scale).copy()
    values[0] = 1e-9
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    half = next(tensor for tensor in in_half(model).graph.initializer if tensor.name == "conv1.weight.scale")
    assert 0 < numpy_helper.to_array(half)[0] < 1e-7


def with_attribute(model: ModelProto) -> str:
    quantize = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    quantize.attribute.append(helper.make_attribute("saturate", 1))
    return "QuantizeLinear with saturate"


def with_new_operator(model: ModelProto) -> str:
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Gelu"
    return "Gelu"


@pytest.mark.parametrize("change", [with_attribute, with_new_operator], ids=lambda change: change.__name__)
def test_what_opset_17_did_not_have_is_refused(change: Callable[[ModelProto], str]) -> None:
    model = written("option A", Dialect.TENSORRT)
    what = change(model)
    with pytest.raises(ExportError, match=f"opset 17, in which {what} differs from opset 20"):
        with_opset_17(model)
