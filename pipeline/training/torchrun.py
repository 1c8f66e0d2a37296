"""Detect whether `torchrun` started this process, and its rank and world size."""

import os
from collections.abc import Mapping

from pipeline.errors import RecipeError


def rank_and_world_size(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Return rank and number of processes if there are several, else None."""
    if "RANK" not in environment or environment.get("WORLD_SIZE", "1") == "1":
        return None
    return int(environment["RANK"]), int(environment["WORLD_SIZE"])


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    found = rank_and_world_size()
    return found is None or found[0] == 0


def refuse_torchrun(instead: str) -> None:
    """Raise `RecipeError` in commands for a single process."""
    found = rank_and_world_size()
    if found is not None:
        raise RecipeError(f"this is process {found[0] + 1} of {found[1]} started by torchrun: {instead}")
