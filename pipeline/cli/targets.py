"""`deploy targets`: the table of targets, or one explained."""

import json
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict

from pipeline.cli.explanation import explain
from pipeline.cli.output import print_table, say
from pipeline.errors import TargetError
from targets.target import Target, aliases, catalogue, find_target

LABEL_WIDTH = 22


def run(words: Sequence[str], *, as_json: bool) -> None:
    """Print all targets, or explain the one of `NAME` or `show NAME` (a name, an alias or the path of a TOML file)."""
    name = _name_in(words)
    found = catalogue() if name is None else [find_target(name)]
    if as_json:
        print(json.dumps([{**asdict(target), "aliases": _aliases_of(target)} for target in found], indent=2))
    elif name is None:
        header = ("target", "what it is", "platform", "runtime", "precisions", "proven at")
        print_table("", header, [_row(target) for target in found])
    else:
        _print_explained(found[0])


def _name_in(words: Sequence[str]) -> str | None:
    match list(words):
        case []:
            return None
        case ["show"]:
            raise TargetError("`deploy targets show` needs a name; `deploy targets` lists them.")
        case [name] | ["show", name]:
            return name
        case _:
            raise TargetError(
                f"`deploy targets` explains one at a time, not {' '.join(words)}: deploy targets show {words[-1]}"
            )


def _aliases_of(target: Target) -> list[str]:
    return [alias for alias, name in aliases().items() if name == target.name]


def _row(target: Target) -> tuple[str, ...]:
    return (
        " = ".join([target.name, *_aliases_of(target)]),
        target.description,
        target.platform,
        target.runtime,
        ", ".join(target.precisions),
        ", ".join(target.provable_at),
    )


def _print_explained(target: Target) -> None:
    also = "".join(f" (also called {alias})" for alias in _aliases_of(target))
    say(f"{target.name}{also}: {target.description}")
    width = max(60, min(120, shutil.get_terminal_size((110, 24)).columns))
    for label, sentence in explain(target):
        indent = " " * LABEL_WIDTH
        print(textwrap.fill(sentence, width, initial_indent=f"  {label}".ljust(LABEL_WIDTH), subsequent_indent=indent))
