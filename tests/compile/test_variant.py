"""Where a saturation-safe variant is of use, and what is said where it is not."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_candidates import artifact, candidate, latency

from pipeline.artifacts import Compilation, Fallback, Place, Precision
from pipeline.compile.alternatives import others_of, variant_of, why_needless
from pipeline.errors import TargetError
from targets.target import find_target


def test_8_bit_weights_on_x86_have_use_for_one() -> None:
    assert why_needless(artifact(), find_target("cpu"), weight_bits=8) is None


@pytest.mark.parametrize(
    ("target", "precision", "weight_bits", "reason"),
    [
        ("cpu", Precision.INT8, 7, "cpu needs no variant: its weights already have 7 bits"),
        ("cpu", Precision.FP32, 8, "cpu needs no variant: fp32 was chosen"),
        (
            "cpu-arm64",
            Precision.INT8,
            8,
            "cpu-arm64 needs no variant: CPUs of linux/arm64 add int8 products in 32 bits",
        ),
    ],
)
def test_elsewhere_the_option_is_answered_not_ignored(
    target: str, precision: Precision, weight_bits: int, reason: str
) -> None:
    said = why_needless(artifact(precision), find_target(target), weight_bits=weight_bits)
    assert said is not None
    assert said.startswith("saturation_safe is on, but ")
    assert reason in said


def test_a_host_of_another_platform_cannot_prove_one() -> None:
    with pytest.raises(TargetError, match=r"cannot be proven on this host, which is linux/arm64\. Build on"):
        why_needless(artifact(place=Place.EMULATED, measured_by="linux/arm64"), find_target("cpu"), weight_bits=8)
    # An ARM image built on x86 needs none.
    assert why_needless(artifact(place=Place.EMULATED), find_target("cpu-arm64"), weight_bits=8)


def test_its_only_candidate_is_the_variant_with_the_times_of_its_own_run() -> None:
    only = candidate(Precision.INT8, 0.6)
    compilation = Compilation(
        candidates=(only,),
        float_latency=latency(1.2),
        selection_images=9,
        place=Place.HOST,
        measured_by="linux/amd64",
    )
    made = variant_of(artifact(), compilation)
    assert (made.folder, made.candidate, made.float_latency) == (only.folder, only, latency(1.2))
    assert "0.50 of the float baseline's latency on this CPU (0.6 ms against 1.2 ms CPU time)" in made.reason
    both = replace(compilation, candidates=(only, replace(only)))
    with pytest.raises(ValueError, match="too many values"):
        variant_of(artifact(), both)


def of_all(**drops: float) -> Compilation:
    made = [replace(candidate(Precision(name), 1.0), selection_drop_points=drop) for name, drop in drops.items()]
    return Compilation(
        candidates=tuple(made),
        float_latency=None,
        selection_images=9,
        place=Place.SIMULATED,
        measured_by="ONNX Runtime",
    )


def others(chosen: str, fallback: Fallback, **drops: float) -> list[str]:
    found = others_of(artifact(Precision(chosen)), of_all(**drops), fallback=fallback, max_drop=1.0)
    assert all(each.folder == Path("compile") / each.precision for each in found)
    return [each.precision.value for each in found]


def test_for_the_fastest_every_precision_within_the_budget_travels_the_smallest_first() -> None:
    assert others("int8", "fastest", fp32=0.0, fp16=0.0, int8=0.9) == ["fp16", "fp32"]
    assert others("fp16", "fastest", fp32=1.0, fp16=0.0, int8=1.1) == ["fp32"]
    assert others("fp16", "fastest", fp32=1.2, fp16=1.1, int8=1.3) == []
    # All that a DLA may run.
    assert others("fp16", "fastest", fp16=0.0) == []
    made = others_of(artifact(), of_all(fp16=0.0, int8=0.0), fallback="fastest", max_drop=1.0)
    assert made[0].reason.startswith("fp16 rival: within the budget on the selection split, so timed against int8")
    assert (made[0].place, made[0].measured_by) == (Place.SIMULATED, "ONNX Runtime")


def test_as_a_fallback_fp16_alone_travels_beside_int8() -> None:
    assert others("int8", "fp16", fp32=0.0, fp16=9.0, int8=0.9) == ["fp16"]
    assert others("fp16", "fp16", fp32=0.0, fp16=0.0, int8=9.0) == []
    assert others("int8", "none", fp32=0.0, fp16=0.0, int8=0.0) == []
    with pytest.raises(TargetError, match=r"fallback is fp16, which the target cpu does not support"):
        others("int8", "fp16", fp32=0.0, int8=0.0)
    (fallback,) = others_of(artifact(), of_all(fp32=0.0, fp16=9.0, int8=0.9), fallback="fp16", max_drop=1.0)
    assert fallback.name == "fp16 fallback"
