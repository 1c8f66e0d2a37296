"""What strangers wrote: JSON whose faults are all `ValueError`, and texts that must do nothing to a terminal.

Names of classes, files and devices must not move its cursor or hide a line.
"""

import json
import re
from typing import Any

HARMFUL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""Control characters but for tab and newline, those that turn the direction of writing, and halves of characters."""
LONGEST = 2000


def printable(text: str, *, longest: int = LONGEST) -> str:
    r"""`text` with such characters as escapes (`\x1b`), cut where it is longer than a message can be read."""
    shown = HARMFUL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    return shown if len(shown) <= longest else f"{shown[:longest]}… ({len(shown):,} characters)"


def on_one_line(text: str, *, longest: int = 200) -> str:
    """As `printable`, newlines and tabs, too: a name within a sentence."""
    return printable(text, longest=longest).replace("\n", "\\n").replace("\t", "\\t")


def parse_json(text: str | bytes) -> Any:
    """As `json.loads`; what is nested too deeply, or is no UTF-8, raises `ValueError`, too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
