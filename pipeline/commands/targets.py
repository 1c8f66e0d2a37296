"""`deploy targets`: the table of targets, or one explained."""

import json
from dataclasses import asdict

from pipeline.table import print_table
from targets.base import Target, catalogue, find_target


def run(name: str | None, *, as_json: bool) -> None:
    """Print all targets, or the one called `name` (a catalogue name or the path of a TOML file)."""
    found = catalogue() if name is None else [find_target(name)]
    if as_json:
        print(json.dumps([asdict(target) for target in found], indent=2))
    elif name is None:
        header = ("target", "what it is", "platform", "runtime", "precisions", "proven at")
        print_table("", header, [_row(target) for target in found])
    else:
        _explain(found[0])


def _row(target: Target) -> tuple[str, ...]:
    return (
        target.name,
        target.description,
        target.platform,
        target.runtime,
        ", ".join(target.precisions),
        ", ".join(target.provable_at),
    )


def _explain(target: Target) -> None:
    print(f"{target.name}: {target.description}")
    for key, value in asdict(target).items():
        if key not in ("name", "description"):
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            print(f"  {key.replace('_', ' '):<17} {shown}")
