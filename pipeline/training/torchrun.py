"""Whether `torchrun` has started this process, and as which of how many."""

import os
from collections.abc import Mapping

from pipeline.errors import RecipeError


def rank_and_world_size(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Rank and number of processes where there are several, else None."""
    if "RANK" not in environment or environment.get("WORLD_SIZE", "1") == "1":
        return None
    return int(environment["RANK"]), int(environment["WORLD_SIZE"])


def is_first() -> bool:
    """Whether this process is the one that speaks and writes."""
    found = rank_and_world_size()
    return found is None or found[0] == 0


def refuse_torchrun(instead: str) -> None:
    """For what one process does."""
    found = rank_and_world_size()
    if found is not None:
        raise RecipeError(f"this is process {found[0] + 1} of {found[1]} that torchrun has started: {instead}")
