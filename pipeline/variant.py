"""Another model beside an artifact: where one is of use, and what is known of it once it is judged.

On a CPU that is the saturation-safe variant, for a TensorRT engine the network in fp16 that may be built in its place.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Artifact, Compilation, Precision
from pipeline.errors import TargetError
from pipeline.predictions import PREDICTIONS
from pipeline.workspace import Folder
from targets.base import Target
from targets.device.variant import FOLDER

NAME = "saturation-safe variant"
FALLBACK, FALLBACK_NAME = Precision.FP16, "fp16 fallback"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A complete artifact, what it answered to the gate's images, and the report on that."""

    artifact: Artifact
    answers: Folder
    report: AccuracyReport
    name: str = NAME
    """In messages."""
    folder: str = FOLDER
    """In the main model's folder, wherever that is."""

    @property
    def predictions(self) -> Path:
        return self.answers.path / PREDICTIONS


def why_needless(artifact: Artifact, target: Target, *, weight_bits: int) -> str | None:
    """Why nothing of this target can saturate, or None where a variant is of use.

    Raises `TargetError` where this host, of another platform, cannot prove one.
    """
    asked = f"saturation_safe is on, but {target.name} needs no variant"
    if target.gpu is not None:
        return f"{asked}: a GPU adds int8 products in 32 bits, which do not saturate"
    if target.platform != "linux/amd64":
        return f"{asked}: CPUs of {target.platform} add int8 products in 32 bits, which do not saturate"
    if artifact.precision is not Precision.INT8:
        return f"{asked}: {artifact.precision} was chosen, which has no int8 sums"
    if weight_bits == 7:
        return f"{asked}: its weights have 7 bits already, and one model serves CPUs with and without VNNI"
    if artifact.stand_in is not None:
        raise TargetError(
            f"saturation_safe is on, but a variant for {target.name} cannot be proven on this host, which is "
            f"{artifact.stand_in}. Build on a machine of {target.platform}, or with --weight-bits 7 instead."
        )
    return None


def variant_of(artifact: Artifact, compilation: Compilation) -> Artifact:
    """The variant's only candidate as an artifact; its latencies are of a run of its own."""
    (candidate,) = compilation.candidates
    assert candidate.latency is not None, "a CPU's candidates are timed"
    assert compilation.float_latency is not None, "a CPU's baseline is timed"
    latency, baseline = candidate.latency.cpu_ms, compilation.float_latency.cpu_ms
    return Artifact(
        folder=candidate.folder,
        target=artifact.target,
        precision=candidate.precision,
        reason=(
            f"{NAME}: 7-bit weights, {latency / baseline:.2f} of the float baseline's latency on this CPU "
            f"({latency:.3g} ms against {baseline:.3g} ms CPU time)"
        ),
        candidate=candidate,
        float_latency=compilation.float_latency,
    )


def fallback_of(artifact: Artifact, compilation: Compilation) -> Artifact | None:
    """The candidate that a device may build where the engine it was sent does not pass there; None if it is that."""
    if artifact.precision is not Precision.INT8:
        return None
    found = next((each for each in compilation.candidates if each.precision is FALLBACK), None)
    if found is None:
        raise TargetError(
            f"fallback is {FALLBACK}, which the target {artifact.target} does not consider (precisions)."
        )
    reason = f"{FALLBACK_NAME}: built where the {artifact.precision} engine does not pass"
    return Artifact(
        folder=found.folder,
        target=artifact.target,
        precision=found.precision,
        reason=reason,
        candidate=found,
        float_latency=compilation.float_latency,
        stand_in=compilation.stand_in,
    )
