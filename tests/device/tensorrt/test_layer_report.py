"""Reports of the engine inspector, read and held against a plan.

The samples were written by hand after NVIDIA's documents: the developer guide's examples for TensorRT 8 and 10, and
the page on what changed in 11. None was recorded on a device.
"""

import json

import pytest
from layer_reports import convolution, report

from targets.device.tensorrt.layer_report import LayerError, audit, precisions_of, read_report

PLAN = ("conv1", "layer1.conv2", "fc")


@pytest.mark.parametrize("version", [8, 10, 11])
def test_what_runs_in_int8_is_counted_and_meets_the_plan(version: int) -> None:
    found = read_report(report(version))
    assert found.by_precision() == {"int8": 4}
    assert found.reformats == 1
    assert found.by_kind() == {"CaskConvolution": 2, "CaskPooling": 1, "Reformat": 1, "gemm": 1}
    audit(found, int8=PLAN)
    raw = found.as_json()
    assert json.loads(json.dumps(raw)) == raw
    assert raw["layers"][1]["precision"] == "int8"


@pytest.mark.parametrize("other", ["fp16", "fp32"])
@pytest.mark.parametrize("version", [8, 10, 11])
def test_a_layer_that_runs_otherwise_is_an_error_with_its_name(version: int, other: str) -> None:
    found = read_report(report(version, second=other))
    assert found.by_precision() == {other: 1, "int8": 3}
    with pytest.raises(
        LayerError, match=rf"1 of the 3 layers planned in int8 as int8: layer1\.conv2: runs in {other}\. K"
    ):
        audit(found, int8=PLAN)
    audit(found, int8=("conv1", "fc"), kept_float=("layer1.conv2",))


@pytest.mark.parametrize("version", [8, 10, 11])
def test_a_layer_that_nobody_names_is_an_error(version: int) -> None:
    with pytest.raises(LayerError, match=r"layer9\.conv: no layer of the engine contains it"):
        audit(read_report(report(version)), int8=(*PLAN, "layer9.conv"))


@pytest.mark.parametrize("version", [8, 10, 11])
def test_a_layer_kept_in_float_must_not_run_in_int8(version: int) -> None:
    with pytest.raises(LayerError, match="runs fc in int8, although the plan keeps them in float"):
        audit(read_report(report(version)), int8=("conv1",), kept_float=("fc",))


def test_a_name_counts_as_a_whole() -> None:
    """conv1 is not layer1.conv1, and a weight's own node is no layer."""
    layers = [convolution(8, "layer1.conv1.weight.dequantize + layer1.conv1", "int8", [])]
    found = read_report(json.dumps({"Layers": layers}))
    assert precisions_of(found, "conv1") == frozenset()
    assert precisions_of(found, "layer1.conv1") == {"int8"}


def test_a_fusion_is_known_by_its_metadata_alone() -> None:
    """Myelin invents names of its own."""
    layers = [convolution(10, "__myl_ConvAddRelu_0x1", "int8", ["conv1", "add"])]
    audit(read_report(json.dumps({"Layers": layers})), int8=("conv1",))


def test_weights_tell_more_than_inputs() -> None:
    """A first convolution may read fp32 and quantize by itself, and an fp16 one may read int8 pixels."""
    layers = [convolution(10, "conv1", "fp32", ["conv1"], weights="Int8")]
    audit(read_report(json.dumps({"Layers": layers})), int8=("conv1",))


def test_a_type_that_is_not_told_is_an_error() -> None:
    """As for engines with a free batch whose inspector was given no context."""
    layer = convolution(8, "conv1", "int8", [])
    del layer["Weights"]
    layer["Inputs"][0]["Format/Datatype"] = "N/A due to dynamic shapes"
    with pytest.raises(LayerError, match="conv1: the inspector does not report its type"):
        audit(read_report(json.dumps({"Layers": [layer]})), int8=("conv1",))


def test_many_failures_are_cut_short() -> None:
    layers = [convolution(10, f"conv{index}", "fp32", [f"conv{index}"]) for index in range(14)]
    with pytest.raises(LayerError, match=r"14 of the 14 .*conv9: runs in fp32; and 4 more\."):
        audit(read_report(json.dumps({"Layers": layers})), int8=[f"conv{index}" for index in range(14)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not JSON", "is not valid JSON"),
        ("[]", "reports no layers"),
        ('{"Layers": []}', "reports no layers"),
        ('{"Layers": ["conv1 + relu", "fc"]}', "built without detailed profiling"),
    ],
)
def test_what_is_no_detailed_report_is_refused(text: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        read_report(text)
