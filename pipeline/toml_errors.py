"""Explain mistakes in a TOML file read by a pydantic model: one line each, with the closest known name."""

import difflib
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
IN_TOML = {
    "tuple_type": "Input should be a list in brackets",
    "string_type": "Input should be a string in quotes",
    "bool_type": "Input should be true or false",
    "int_type": "Input should be a whole number",
    "dataclass_type": "Input should be a table of keys",
    "model_type": "Input should be a table of keys",
}
"""pydantic's messages in TOML's terms instead of Python's."""


def explain(where: str, error: ValidationError, model: type[Any]) -> str:
    """Return the mistakes in `where`, which was read as a `model` (a pydantic model or dataclass)."""
    lines = [f"{where}: {error.error_count()} mistake{'s' if error.error_count() > 1 else ''}:"]
    for detail in error.errors():
        place = ".".join(str(part) for part in detail["loc"]) or "recipe"
        if detail["type"] in UNKNOWN:
            lines.append(f"  {place}: unknown key.{_did_you_mean(detail['loc'], model)}")
        elif detail["type"] == "missing":
            lines.append(f"  {place} is missing.")
        elif detail["type"] == "string_pattern_mismatch":
            lines.append(f"  {place} = {detail['input']!r} has another form. {_form(detail['loc'], model)}")
        else:
            # For a whole section the message itself names the keys.
            given = "" if isinstance(detail["input"], dict) else f" = {detail['input']!r}"
            words = IN_TOML.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
            lines.append(f"  {place}{given}: {words}.")
    return "\n".join(lines)


def _fields(model: Any) -> dict[str, FieldInfo]:
    """Return a table's fields by their names in the file; an empty dict for other types."""
    fields: dict[str, FieldInfo] = getattr(model, "__pydantic_fields__", None) or getattr(model, "model_fields", {})
    return {field.alias or name: field for name, field in fields.items()}


def _table(annotation: Any) -> Any:
    """Return the model of an optional table (`Gpu | None`), or `annotation` itself."""
    if get_origin(annotation) is UnionType:
        return next((each for each in get_args(annotation) if _fields(each)), annotation)
    return annotation


def _form(location: tuple[int | str, ...], model: type[Any]) -> str:
    """Return a description and an example of the expected value; a regular expression is not readable."""
    section: Any = model
    for part in location:
        if isinstance(part, int):
            # A list element: use its own description, if any.
            section = next(iter(get_args(section)), None)
            found = next((each for each in getattr(section, "__metadata__", ()) if isinstance(each, FieldInfo)), None)
        else:
            field = _fields(section).get(part)
            section, found = _table(field.annotation) if field else None, field
        if found is not None and found.examples:
            words = found.description or "Another form is expected"
            return f"{words[:1].upper()}{words[1:]}; such as {found.examples[0]}."
    return "See the documentation for the expected form."


def _did_you_mean(location: tuple[int | str, ...], model: type[Any]) -> str:
    section: Any = model
    for part in location[:-1]:
        if get_origin(section) is dict:
            section = get_args(section)[1]
            continue
        section = _table(_fields(section)[str(part)].annotation)
    known = list(_fields(section))
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f" Did you mean {close[0]}?" if close else f" Known: {', '.join(known)}."
