"""Alternative models beside an artifact, and when they are useful.

On a CPU this is the saturation-safe variant; for TensorRT the same network in other precisions, to be built if the
main engine does not pass, or to be timed against it.
"""

from dataclasses import replace

from pipeline.artifacts import Artifact, Candidate, Compilation, Fallback, Place, Precision, Role
from pipeline.compile.result import UNTIMED
from pipeline.errors import TargetError
from targets.target import Target

FALLBACK = Precision.FP16


def why_needless(artifact: Artifact, target: Target, *, weight_bits: int) -> str | None:
    """Return why nothing on this target can saturate, or None if a variant is useful.

    Raises `TargetError` if this host, of another platform, cannot prove a variant.
    """
    asked = f"saturation_safe is on, but {target.name} needs no variant"
    if target.gpu is not None:
        return f"{asked}: a GPU adds int8 products in 32 bits, which do not saturate"
    if target.platform != "linux/amd64":
        return f"{asked}: CPUs of {target.platform} add int8 products in 32 bits, which do not saturate"
    if artifact.precision is not Precision.INT8:
        return f"{asked}: {artifact.precision} was chosen, which has no int8 sums"
    if weight_bits == 7:
        return f"{asked}: its weights already have 7 bits, and one model serves CPUs with and without VNNI"
    if artifact.place is not Place.HOST:
        raise TargetError(
            f"saturation_safe is on, but a variant for {target.name} cannot be proven on this host, which is "
            f"{artifact.measured_by}. Build on a machine with {target.platform}, or with --weight-bits 7 instead."
        )
    return None


def variant_of(artifact: Artifact, compilation: Compilation) -> Artifact:
    """Return the variant's only candidate as an artifact; its latencies are from a separate run."""
    (candidate,) = compilation.candidates
    assert candidate.latency is not None, "a CPU's candidates are timed"
    assert compilation.float_latency is not None, "a CPU's baseline is timed"
    latency, baseline = candidate.latency.cpu_ms, compilation.float_latency.cpu_ms
    return Artifact(
        folder=candidate.folder,
        target=artifact.target,
        precision=candidate.precision,
        reason=(
            f"{Role.SATURATION_SAFE}: 7-bit weights, {latency / baseline:.2f} of the float baseline's latency on this "
            f"CPU ({latency:.3g} ms against {baseline:.3g} ms CPU time)"
        ),
        candidate=candidate,
        float_latency=compilation.float_latency,
        place=compilation.place,
        measured_by=compilation.measured_by,
        role=Role.SATURATION_SAFE,
    )


def others_of(
    artifact: Artifact, compilation: Compilation, *, fallback: Fallback, max_drop: float
) -> tuple[Artifact, ...]:
    """Return the candidates that a device may build besides its main model, the smallest first.

    For `fastest`, all that lose at most `max_drop` points on the selection split; otherwise the fp16 one, if the
    main one is in int8.
    """
    if fallback == "fastest":
        within = [each for each in compilation.candidates if each.selection_drop_points <= max_drop]
        others = [each for each in within if each.precision is not artifact.precision]
        why = f"within the budget on the selection split, so timed against {artifact.precision} on the device"
    elif fallback == "fp16" and artifact.precision is Precision.INT8:
        others = [each for each in compilation.candidates if each.precision is FALLBACK]
        if not others:
            raise TargetError(
                f"fallback is {FALLBACK}, which the target {artifact.target} does not support (precisions)."
            )
        why = f"built if the {artifact.precision} engine does not pass"
    else:
        return ()
    smallest_first = sorted(others, key=lambda each: UNTIMED.index(each.precision))
    return tuple(_other(each, artifact, compilation, fallback, why) for each in smallest_first)


def _other(candidate: Candidate, main: Artifact, compilation: Compilation, fallback: Fallback, why: str) -> Artifact:
    other = Artifact(
        folder=candidate.folder,
        target=main.target,
        precision=candidate.precision,
        reason="",
        candidate=candidate,
        float_latency=compilation.float_latency,
        place=compilation.place,
        measured_by=compilation.measured_by,
        role=Role.RIVAL if fallback == "fastest" else Role.FALLBACK,
    )
    return replace(other, reason=f"{other.name}: {why}")
