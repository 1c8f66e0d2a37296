"""Handle untrusted input: JSON whose errors are all `ValueError`, and text that is safe to print on a terminal.

Names of classes, files and devices must not move the cursor or hide a line.
"""

import json
import re
from typing import Any

HARMFUL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""Control characters except tab and newline, bidirectional controls and invisible characters, and surrogates."""
LONGEST = 2000


def printable(text: str, *, longest: int = LONGEST) -> str:
    r"""Return `text` with harmful characters escaped (`\x1b`), cut after `longest` characters."""
    shown = HARMFUL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    return shown if len(shown) <= longest else f"{shown[:longest]}… ({len(shown):,} characters)"


def on_one_line(text: str, *, longest: int = 200) -> str:
    """Same as `printable`, but also escape newlines and tabs: for a name within a sentence."""
    return printable(text, longest=longest).replace("\n", "\\n").replace("\t", "\\t")


def parse_json(text: str | bytes) -> Any:
    """Same as `json.loads`, but also raise `ValueError` for deep nesting and invalid UTF-8."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
