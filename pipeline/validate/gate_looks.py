"""Number of artifacts judged on a gate set: with enough tries any test is passed once by chance."""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import WorkspaceError
from pipeline.workspace.store import write_atomically
from targets.device.gate.tango import CONFIDENCE

SCHEMA = 1

Looks = dict[str, list[str]]
"""`<model>:<gate>` -> hashes of the different artifacts judged."""


def confidence_at(look: int, *, is_corrected: bool) -> float:
    """Return the confidence of the one-sided bounds for the artifact that is the gate's `look`-th.

    With correction, the k-th uses 0.05 / (k (k + 1)) of the error, so that for any number of artifacts all of them
    together pass by chance in nominally at most 5 % of cases (alpha spending, Lan & DeMets 1983).
    """
    error = 1 - CONFIDENCE
    return 1 - error / (look * (look + 1)) if is_corrected else CONFIDENCE


@dataclass(frozen=True, kw_only=True)
class Look:
    """One of the artifacts judged on the same images."""

    number: int
    """Position of this one, by the first time each was judged; it never changes."""
    total: int


def looks_text(look: Look, *, is_corrected: bool) -> str | None:
    """Return a note on what many looks mean for the proof, for the log; None for the first."""
    looks = look.total
    if looks < 2:
        return None
    if is_corrected:
        return (
            f"the gate's images have judged {looks} artifacts of this model, this one as number {look.number}; to "
            f"correct for that, its bounds have {confidence_at(look.number, is_corrected=True):.2%} confidence"
        )
    return (
        f"the gate's images have judged {looks} artifacts of this model: at a true drop of exactly the margin, "
        f"{1 - CONFIDENCE**looks:.0%} of this many independent tries pass at least once by chance. Correct for it "
        "with correct_looks = true in [validate], or use new images"
    )


def look(file: Path, *, model: str, gate: str, artifact: str) -> Look:
    """Record that `artifact` of `model` was judged on `gate` (all hashes).

    Judging the same artifact again, for instance with another margin, is not a new look.
    """
    looks = _read(file)
    judged = looks.setdefault(_key(model, gate), [])
    if artifact not in judged:
        judged.append(artifact)
        text = json.dumps({"schema": SCHEMA, "looks": looks}, indent=1, sort_keys=True)
        write_atomically(file, text + "\n")
    return Look(number=judged.index(artifact) + 1, total=len(judged))


def look_if_judged(file: Path, *, model: str, gate: str, artifact: str) -> Look:
    """Return what `look` would return, without recording it."""
    judged = _read(file).get(_key(model, gate), [])
    order = judged if artifact in judged else [*judged, artifact]
    return Look(number=order.index(artifact) + 1, total=len(order))


def _key(model: str, gate: str) -> str:
    return f"{model}:{gate}"


def _read(file: Path) -> Looks:
    try:
        raw = json.loads(file.read_text())
        if raw["schema"] != SCHEMA:
            raise WorkspaceError(
                f"{file} has schema {raw['schema']!r}, this version reads schema {SCHEMA}. "
                "Use the version that wrote it, or another --workspace."
            )
        return {str(key): [str(artifact) for artifact in judged] for key, judged in raw["looks"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkspaceError(
            f"{file} is damaged ({error}). Remove it and run again: the looks at the gate are then counted from zero."
        ) from None
