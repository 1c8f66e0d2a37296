"""How often a gate set has been looked at: whoever tries often enough passes any test once by luck."""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import WorkspaceError
from pipeline.workspace import write_atomically
from targets.device.tango import CONFIDENCE

SCHEMA = 1

Looks = dict[str, list[str]]
"""`<model>:<gate>` -> the hashes of the different artifacts judged."""


def confidence_at(look: int, *, is_corrected: bool) -> float:
    """Of the one-sided bounds by which the gate judges the artifact that it sees as its `look`-th.

    Corrected, the k-th spends 0.05 / (k (k + 1)) of the error, so that however many artifacts are tried, all of them
    together pass by luck in 5 % of cases at most (alpha spending, Lan & DeMets 1983).
    """
    error = 1 - CONFIDENCE
    return 1 - error / (look * (look + 1)) if is_corrected else CONFIDENCE


@dataclass(frozen=True, kw_only=True)
class Look:
    """One artifact among those that the same images have judged."""

    number: int
    """Of this one, in the order in which they were judged first: it stays the same however many follow."""
    total: int


def looks_text(look: Look, *, is_corrected: bool) -> str | None:
    """What many looks do to a proof, for the log; None for the first."""
    looks = look.total
    if looks < 2:
        return None
    if is_corrected:
        return (
            f"the gate's images have judged {looks} artifacts of this model, this one as number {look.number}; its "
            f"bounds are of {confidence_at(look.number, is_corrected=True):.2%} confidence to make up for it"
        )
    return (
        f"the gate's images have judged {looks} artifacts of this model: at a true drop of just the margin "
        f"{1 - CONFIDENCE**looks:.0%} of so many independent tries pass at least once by luck. Correct for it with "
        "correct_looks = true in [validate], or judge by fresh images"
    )


def look(file: Path, *, model: str, gate: str, artifact: str) -> Look:
    """Record that `artifact` of `model` was judged on `gate` (all hashes).

    Judging the same artifact again, with another margin for instance, is no further look.
    """
    looks = _read(file)
    judged = looks.setdefault(_key(model, gate), [])
    if artifact not in judged:
        judged.append(artifact)
        text = json.dumps({"schema": SCHEMA, "looks": looks}, indent=1, sort_keys=True)
        write_atomically(file, text + "\n")
    return Look(number=judged.index(artifact) + 1, total=len(judged))


def look_if_judged(file: Path, *, model: str, gate: str, artifact: str) -> Look:
    """What `look` would return, recording nothing."""
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
            f"{file} is damaged ({error}). Remove it and run again: the looks at the gate are then counted anew."
        ) from None
