"""How often a gate set has been looked at: whoever tries often enough passes any test once by luck."""

import json
from pathlib import Path

from pipeline.errors import WorkspaceError
from pipeline.workspace import write_atomically

SCHEMA = 1

Looks = dict[str, list[str]]
"""`<model>:<gate>` -> the hashes of the different artifacts judged."""


def look(file: Path, *, model: str, gate: str, artifact: str) -> int:
    """Record that `artifact` of `model` was judged on `gate` (all hashes); returns how many different ones were.

    Judging the same artifact again, with another margin for instance, is no further look.
    """
    looks = _read(file)
    judged = looks.setdefault(_key(model, gate), [])
    if artifact not in judged:
        judged.append(artifact)
        text = json.dumps({"schema": SCHEMA, "looks": looks}, indent=1, sort_keys=True)
        write_atomically(file, text + "\n")
    return len(judged)


def looks_at(file: Path, *, model: str, gate: str) -> int:
    """How many different artifacts of `model` were judged on `gate` so far."""
    return len(_read(file).get(_key(model, gate), []))


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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkspaceError(
            f"{file} is damaged ({error}). Remove it and run again: the looks at the gate are then counted anew."
        ) from None
