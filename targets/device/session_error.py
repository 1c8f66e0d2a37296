"""The one error of every session, apart from the runtimes: an image holds one of them only."""

from __future__ import annotations


class SessionError(RuntimeError):
    """The runtime cannot open or run the model as its manifest asks."""
