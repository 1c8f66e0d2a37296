"""Choose the candidate that ships, from stored measurements."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import Artifact, Audit, Candidate, Compilation, Latency, Place, Precision
from pipeline.errors import WorkspaceError
from pipeline.workspace.store import TIMINGS

if TYPE_CHECKING:
    from targets.target import Target

SCHEMA = 1
DECISIONS = "compilation.json"
BASELINE = "float baseline"
ROUNDING = 1e-9
"""For points computed from counts."""
UNTIMED = (Precision.INT8, Precision.FP16, Precision.FP32)
"""Preference if the target cannot be timed: the smallest, which its kernels probably run fastest."""
TIE = 0.05
"""int8 may be slower than the fastest by this share: it is smaller, and 5 % is within the noise."""


def write_compilation(compilation: Compilation, folder: Path) -> None:
    """Write reproducible facts to `compilation.json`, timings to `timings.json`."""
    candidates = compilation.candidates
    decisions = {
        "schema": SCHEMA,
        "selection_images": compilation.selection_images,
        "place": compilation.place,
        "measured_by": compilation.measured_by,
        "candidates": [
            {
                "precision": candidate.precision,
                "folder": candidate.folder.relative_to(folder).as_posix(),
                "audit": _raw(candidate.audit),
                "selection_top1": candidate.selection_top1,
                "selection_drop_points": candidate.selection_drop_points,
            }
            for candidate in candidates
        ],
    }
    timings = {candidate.precision.value: _raw(candidate.latency) for candidate in candidates}
    timings[BASELINE] = _raw(compilation.float_latency)
    (folder / DECISIONS).write_text(json.dumps(decisions, indent=2, sort_keys=True) + "\n")
    (folder / TIMINGS).write_text(json.dumps(timings, indent=2, sort_keys=True) + "\n")


def read_compilation(folder: Path) -> Compilation:
    """Return the candidates of a compile folder; raise `WorkspaceError` if it is damaged."""
    try:
        decisions = json.loads((folder / DECISIONS).read_text())
        timings = json.loads((folder / TIMINGS).read_text())
        return Compilation(
            candidates=tuple(_candidate(folder, raw, timings) for raw in decisions["candidates"]),
            float_latency=_latency(timings[BASELINE]),
            selection_images=decisions["selection_images"],
            place=Place(decisions["place"]),
            measured_by=decisions["measured_by"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(f"{folder} is damaged ({error!r}). Remove it and run again.") from None


def choose(compilation: Compilation, *, target: "Target", max_drop: float) -> Artifact:
    """Return the fastest candidate whose selection accuracy is within `max_drop` points; a tie goes to int8.

    If there is none, pruning has cost more than the budget in any precision, and the gate will decide on images that
    were not used for any choice: take the fastest of those that lose at most `max_drop` more than the best. Stage
    `quantize` applies the same limit to int8 on these images; a stricter one would overrule it by an image or two.
    If this host is of another platform than the target, or has no TensorRT for it, the target cannot be timed, and
    int8 is taken untimed.
    """
    within = [candidate for candidate in compilation.candidates if candidate.selection_drop_points <= max_drop]
    fastest = _fastest if compilation.place is Place.HOST else _smallest
    if within:
        chosen = fastest(within)
        reason = _reason(chosen, compilation, within, target, max_drop)
    else:
        least = min(candidate.selection_drop_points for candidate in compilation.candidates)
        limit = least + max_drop + ROUNDING
        chosen = fastest([each for each in compilation.candidates if each.selection_drop_points <= limit])
        reason = (
            f"{chosen.precision}: no candidate is within {max_drop:g} points on the selection split; "
            f"the fastest of those that lose at most as much more than the best ({_accuracy(chosen)})"
        )
    return Artifact(
        folder=chosen.folder,
        target=target.name,
        precision=chosen.precision,
        reason=reason,
        candidate=chosen,
        float_latency=compilation.float_latency,
        place=compilation.place,
        measured_by=compilation.measured_by,
    )


def _smallest(candidates: list[Candidate]) -> Candidate:
    return min(candidates, key=lambda candidate: UNTIMED.index(candidate.precision))


def _fastest(candidates: list[Candidate]) -> Candidate:
    fastest = min(candidates, key=_cpu_ms)
    limit = _cpu_ms(fastest) * (1 + TIE)
    ties = [c for c in candidates if c.precision is Precision.INT8 and _cpu_ms(c) <= limit]
    return ties[0] if ties else fastest


def _reason(
    chosen: Candidate, compilation: Compilation, within: list[Candidate], target: "Target", max_drop: float
) -> str:
    """`int8: 0.48 of fp32 latency (0.44 ms against 0.92 ms), selection top-1 99.4 % (…)`."""
    others = [candidate for candidate in compilation.candidates if candidate is not chosen]
    if not others:
        return f"{chosen.precision}: the only precision of this target, {_accuracy(chosen)}"
    if compilation.place is Place.HOST:
        parts = [_against(chosen, other) for other in others]
    elif compilation.place is Place.SIMULATED:
        parts = [f"not timed: {compilation.measured_by} simulates TensorRT, whose engines run where they are built"]
    else:
        here = [_milliseconds(chosen, other) for other in others]
        clock = f"CPU time here, not on the device: {', '.join(here)}"
        parts = [f"not timed on {target.platform}, as this host is {compilation.measured_by} ({clock})"]
    parts.append(_accuracy(chosen))
    parts += [
        f"{other.precision} loses {other.selection_drop_points:.2f} points, more than the {max_drop:g} allowed"
        for other in others
        if other not in within
    ]
    return f"{chosen.precision}: " + "; ".join(parts)


def _against(chosen: Candidate, other: Candidate) -> str:
    ratio = _cpu_ms(chosen) / _cpu_ms(other)
    figures = f"{_cpu_ms(chosen):.3g} ms against {_cpu_ms(other):.3g} ms CPU time"
    if ratio <= 1:
        text = f"{ratio:.2f} of {other.precision} latency ({figures})"
    elif ratio <= 1 + TIE and chosen.precision is Precision.INT8:
        text = f"as fast as {other.precision} within {TIE * 100:.0f} % ({figures}) and smaller"
    else:
        text = f"{ratio:.2f} times {other.precision} latency ({figures})"
    if chosen.precision is not Precision.INT8 and other.precision is Precision.INT8 and ratio < 1:
        text += "; int8 is slower on this CPU"
    return text


def _milliseconds(chosen: Candidate, other: Candidate) -> str:
    return f"{_cpu_ms(chosen):.3g} ms against {_cpu_ms(other):.3g} ms of {other.precision}"


def _accuracy(candidate: Candidate) -> str:
    baseline = candidate.selection_top1 + candidate.selection_drop_points / 100
    return f"selection top-1 {100 * candidate.selection_top1:.1f} %, float {100 * baseline:.1f} %"


def _cpu_ms(candidate: Candidate) -> float:
    assert candidate.latency is not None, "a candidate without timing is chosen untimed"
    return candidate.latency.cpu_ms


def _raw(facts: Latency | Audit | None) -> dict[str, Any] | None:
    return None if facts is None else asdict(facts)


def _latency(raw: dict[str, Any] | None) -> Latency | None:
    return None if raw is None else Latency(**raw)


def _candidate(folder: Path, raw: dict[str, Any], timings: dict[str, Any]) -> Candidate:
    audit = raw["audit"]
    return Candidate(
        precision=Precision(raw["precision"]),
        folder=folder / raw["folder"],
        latency=_latency(timings[raw["precision"]]),
        audit=audit and Audit(**{**audit, "kept_float": tuple(audit["kept_float"])}),
        selection_top1=raw["selection_top1"],
        selection_drop_points=raw["selection_drop_points"],
    )
