"""What a table of a target's TOML file may hold: known keys, texts, versions, one of a few words."""

import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import TargetError


def check_keys(
    path: Path, raw: Mapping[str, Any], *, known: Collection[str], optional: Collection[str] = (), table: str = ""
) -> None:
    """Raise `TargetError` for keys that are not `known`, with the nearest one, and for missing ones."""
    inside = f" in [{table}]" if table else ""
    for key in raw:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else f" Known: {', '.join(sorted(known))}."
            raise TargetError(f"the target file {path} has an unknown key {key!r}{inside}.{hint}")
    missing = sorted(set(known) - set(raw) - set(optional))
    if missing:
        raise TargetError(f"the target file {path} lacks {', '.join(missing)}{inside}.")


def one_of(value: Any, allowed: tuple[Any, ...]) -> Any:
    """`value`; raises `ValueError` unless it is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{value!r} is not one of {', '.join(map(repr, allowed))}")
    return value


def text(raw: Mapping[str, Any], key: str, pattern: str = r".+", *, like: str = "") -> str:
    """A string that matches `pattern` from end to end, `like` this one; raises `ValueError`."""
    value = raw[key]
    if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
        raise ValueError(f"{key} = {value!r} is not a text{f' like {like!r}' if like else ''}")
    return value


def texts(raw: Mapping[str, Any], key: str, pattern: str = r".+", *, like: str = "") -> tuple[str, ...]:
    """A list of strings, each of which matches `pattern`; one string alone is an error, never a list of letters."""
    if not isinstance(raw[key], list):
        raise ValueError(f"{key} = {raw[key]!r} is not a list of texts")
    return tuple(text({key: value}, key, pattern, like=like) for value in raw[key])


def truth(raw: Mapping[str, Any], key: str) -> bool:
    """True or false; raises `ValueError`, for 0 and 1 too."""
    value = raw[key]
    if not isinstance(value, bool):
        raise ValueError(f"{key} = {value!r} is not true or false")
    return value


def whole(raw: Mapping[str, Any], key: str, *, least: int) -> int:
    """A whole number that is not below `least`; raises `ValueError`."""
    value = raw[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{key} = {value!r} is not a whole number from {least} on")
    return value
