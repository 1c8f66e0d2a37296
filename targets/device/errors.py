"""Errors of every runtime's sessions and builds, apart from the runtimes: an image holds one of them only."""

from __future__ import annotations


class SessionError(RuntimeError):
    """The runtime cannot open or run the model as its manifest asks."""


class BuildError(RuntimeError):
    """TensorRT cannot build the engine that was asked for; its own words are in the message."""
