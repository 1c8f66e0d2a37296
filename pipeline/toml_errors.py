"""What is wrong in a TOML file that a pydantic model reads: each mistake in a line, with the nearest name there is."""

import difflib
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError


def explain(where: str, error: ValidationError, model: type[BaseModel]) -> str:
    """The mistakes in `where`, which was read as a `model`."""
    lines = [f"{where}: {error.error_count()} mistake{'s' if error.error_count() > 1 else ''}:"]
    for detail in error.errors():
        place = ".".join(str(part) for part in detail["loc"]) or "recipe"
        if detail["type"] == "extra_forbidden":
            lines.append(f"  {place}: unknown key.{_did_you_mean(detail['loc'], model)}")
        elif detail["type"] == "missing":
            lines.append(f"  {place} is missing.")
        elif detail["type"] == "string_pattern_mismatch":
            lines.append(f"  {place} = {detail['input']!r} is not of its form. {_form(detail['loc'], model)}")
        else:
            # Of a whole section the message names what matters.
            given = "" if isinstance(detail["input"], dict) else f" = {detail['input']!r}"
            lines.append(f"  {place}{given}: {detail['msg'].removeprefix('Value error, ')}.")
    return "\n".join(lines)


def _form(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """What belongs there, in words, and an example: a pattern is no message."""
    section: Any = model
    for part in location:
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            break
        names = {field.alias or name: field for name, field in section.model_fields.items()}
        if str(part) not in names:
            break
        found = names[str(part)]
        section = found.annotation
        if found.examples:
            words = found.description or "Something else is expected"
            return f"{words[:1].upper()}{words[1:]}; such as {found.examples[0]}."
    return "See the documents for what belongs there."


def _did_you_mean(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    section: Any = model
    for part in location[:-1]:
        if get_origin(section) is dict:
            section = get_args(section)[1]
            continue
        names = {field.alias or name: field for name, field in section.model_fields.items()}
        section = names[str(part)].annotation
    known = [field.alias or name for name, field in section.model_fields.items()]
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f" Did you mean {close[0]}?" if close else f" Known: {', '.join(known)}."
