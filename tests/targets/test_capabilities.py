"""Combinations that cannot be, each refused with its reason and an alternative that can."""

import re
from dataclasses import replace
from typing import Any

import pytest

from pipeline.artifacts import Precision
from pipeline.errors import TargetError
from targets.capabilities import check_combination, dla_reads_qdq, why_no_dla
from targets.target import Target, catalogue, find_target


def orin(precisions: tuple[Precision, ...] = tuple(Precision), **facts: Any) -> Target:
    target = find_target("orin-jp61")
    assert target.gpu is not None
    return replace(target, name="own", precisions=precisions, gpu=replace(target.gpu, **facts))


@pytest.mark.parametrize("target", catalogue(), ids=lambda target: target.name)
def test_every_target_runs_the_precisions_it_states(target: Target) -> None:
    check_combination(target)
    for precision in target.precisions:
        check_combination(target, precision=precision)


def test_the_catalogue_has_a_dla_where_its_tensorrt_uses_one() -> None:
    able = {target.name for target in catalogue() if why_no_dla(target) is None}
    assert able == {"orin-jp51", "orin-jp60", "orin-jp61", "xavier-jp51"}
    for name in able:
        check_combination(find_target(name), precision=Precision.FP16, dla=True)


ORIN_NANO = ("Orin Nano 8GB", "Orin Nano 4GB")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        pytest.param(find_target("cpu"), "it is a CPU", id="cpu"),
        pytest.param(find_target("gpu-hopper"), "GPUs in a PC or server have no DLA", id="card"),
        pytest.param(find_target("thor-jp72"), "Thor has no DLA", id="thor"),
        pytest.param(
            find_target("orin-jp72"), r"TensorRT 10\.16\.2\.10 \(JetPack 7\.2\) does not support it", id="10.16"
        ),
        pytest.param(
            orin(tensorrt="10.16.0.72"), r"10\.x supports it up to 10\.7, and 11\.x from 11\.4\.1", id="10.16-cores"
        ),
        pytest.param(orin(tensorrt="10.8.0"), r"TensorRT 10\.8\.0 .* does not support it", id="10.8"),
        pytest.param(orin(tensorrt="11.3.0"), r"TensorRT 11\.3\.0 .* does not support it", id="11.3"),
        pytest.param(orin(tensorrt="11.0.0"), r"TensorRT 11\.0\.0 .* does not support it", id="11.0"),
        pytest.param(
            orin(tensorrt="11.4.1", modules=("Orin NX 16GB",)), "supports only the DLA of an AGX Orin", id="11.4.1-NX"
        ),
        pytest.param(orin(modules=ORIN_NANO), "the Orin Nano has no DLA; Orin NX and AGX Orin have one", id="nano-2"),
        pytest.param(orin(modules=ORIN_NANO, dla_cores=0), "the Orin Nano has no DLA", id="nano-0"),
        pytest.param(orin(modules=("Custom",), dla_cores=0), "its target file says dla_cores = 0", id="own-none"),
    ],
)
def test_no_dla_is_said_with_the_reason_and_a_target_that_has_one(target: Target, reason: str) -> None:
    with pytest.raises(TargetError, match=rf"{target.name} has no usable DLA: .*{reason}") as caught:
        check_combination(target, dla=True)
    named = re.search(r"use a target with a DLA: (.*)\.$", str(caught.value))
    assert named is not None
    for name in named[1].split(", "):
        check_combination(find_target(name), dla=True)


@pytest.mark.parametrize("version", ["8.5.2", "10.3.0.30", "10.7.0.23", "11.4.1", "11.5.0"])
def test_a_tensorrt_that_uses_the_dla_of_an_agx_orin(version: str) -> None:
    check_combination(orin(tensorrt=version), dla=True)


def test_a_dla_runs_no_fp32() -> None:
    with pytest.raises(TargetError, match=r"orin-jp61 supports fp16 and int8, not fp32\. Use fp16"):
        check_combination(find_target("orin-jp61"), precision=Precision.FP32, dla=True)


def test_a_dla_before_tensorrt_11_reads_no_qdq() -> None:
    with pytest.raises(TargetError, match=r"with TensorRT 8\.5\.2, .* calibration cache.*fp16 on the DLA, or int8 on"):
        check_combination(find_target("xavier-jp51"), precision=Precision.INT8, dla=True)
    later = orin(tensorrt="11.4.1")
    assert later.gpu is not None
    assert dla_reads_qdq(later.gpu)
    check_combination(later, precision=Precision.INT8, dla=True)


def test_int8_is_refused_where_the_hardware_has_none() -> None:
    # Whether or not the file's precisions were cut accordingly.
    for precisions in (tuple(Precision), (Precision.FP32, Precision.FP16)):
        target = orin(precisions, int8=False, compute_capability=("6.2",))
        with pytest.raises(TargetError, match=r"own \(compute capability 6\.2\) has no int8 .*Q/DQ.*Use fp16"):
            check_combination(target, precision=Precision.INT8)
        check_combination(target, precision=Precision.FP16)


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(
        TargetError, match=r"cpu does not support fp16\. Use fp32 or int8; only targets with a GPU support fp16"
    ):
        check_combination(find_target("cpu"), precision=Precision.FP16)


def test_a_precision_that_a_file_leaves_out_is_refused() -> None:
    with pytest.raises(TargetError, match=r"own does not support fp16\. Use fp32 or int8\."):
        check_combination(orin((Precision.FP32, Precision.INT8)), precision=Precision.FP16)
