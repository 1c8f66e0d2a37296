"""Where a saturation-safe variant is of use, and what is said where it is not."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import Artifact, Audit, Candidate, Compilation, Latency, Precision
from pipeline.errors import TargetError
from pipeline.variant import variant_of, why_needless
from targets.base import find_target


def latency(cpu_ms: float) -> Latency:
    return Latency(cpu_ms=cpu_ms, wall_ms=cpu_ms, wall_p90_ms=cpu_ms, threads=1, runs=10)


def candidate(precision: Precision, cpu_ms: float) -> Candidate:
    return Candidate(
        precision=precision,
        folder=Path("compile") / precision,
        latency=latency(cpu_ms),
        audit=Audit(int8_nodes=20, float_nodes=0),
        selection_top1=0.9,
        selection_drop_points=0.1,
    )


def artifact(precision: Precision = Precision.INT8, stand_in: str | None = None) -> Artifact:
    return Artifact(
        folder=Path("compile") / precision,
        target="cpu",
        precision=precision,
        reason="the fastest",
        candidate=candidate(precision, 0.4),
        float_latency=latency(1.0),
        stand_in=stand_in,
    )


def test_8_bit_weights_on_x86_have_use_for_one() -> None:
    assert why_needless(artifact(), find_target("cpu"), weight_bits=8) is None


@pytest.mark.parametrize(
    ("target", "precision", "weight_bits", "reason"),
    [
        ("cpu", Precision.INT8, 7, "cpu needs no variant: its weights have 7 bits already"),
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
        why_needless(artifact(stand_in="linux/arm64"), find_target("cpu"), weight_bits=8)
    # An ARM image built on x86 needs none.
    assert why_needless(artifact(stand_in="linux/amd64"), find_target("cpu-arm64"), weight_bits=8)


def test_its_only_candidate_is_the_variant_with_the_times_of_its_own_run() -> None:
    only = candidate(Precision.INT8, 0.6)
    made = variant_of(artifact(), Compilation(candidates=(only,), float_latency=latency(1.2), selection_images=9))
    assert (made.folder, made.candidate, made.float_latency) == (only.folder, only, latency(1.2))
    assert "0.50 of the float baseline's latency on this CPU (0.6 ms against 1.2 ms CPU time)" in made.reason
    both = Compilation(candidates=(only, replace(only)), float_latency=latency(1.2), selection_images=9)
    with pytest.raises(ValueError, match="too many values"):
        variant_of(artifact(), both)
