"""The status page of a device: one file that needs nothing else, and what a browser may do with it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Tuple

FILE = "status.html"
STYLE = re.compile(rb"<style>(.*?)</style>", re.DOTALL)
SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def page() -> Tuple[bytes, str]:
    """The page, to be sent as `text/html; charset=utf-8`, and the value of its Content-Security-Policy.

    It runs no style and no script but its own and asks no server but the one it came from, so that a name which
    holds markup does nothing even if it should get into the page as such.
    """
    content = (Path(__file__).parent / FILE).read_bytes()
    directives = (
        "default-src 'none'",
        f"style-src {_source(STYLE, content)}",
        f"script-src {_source(SCRIPT, content)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return content, "; ".join(directives)


def _source(element: "re.Pattern[bytes]", content: bytes) -> str:
    """The hash that allows the page's one element of this kind."""
    (text,) = element.findall(content)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
