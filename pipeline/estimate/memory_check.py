"""Stop before hours of training if a stage needs more memory than there is, instead of being killed during it."""

from collections.abc import Mapping, Sequence

from pipeline.artifacts import Checkpoint
from pipeline.data.readers import Dataset
from pipeline.errors import DeployError, NotEnoughMemory
from pipeline.estimate.available_memory import Capacity, capacity, gib
from pipeline.estimate.memory import Needs
from pipeline.recipe import Recipe

# Errors of the user's own network on tensors without values; an estimate must not end a build.
UNCOUNTABLE = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)
ORDER = ("prune", "quantize", "export", "compile", "validate")


def check_memory(
    checkpoint: Checkpoint, dataset: Dataset, recipe: Recipe, *, stages: Sequence[str], has: Capacity | None = None
) -> dict[str, int]:
    """Return the bytes that each of `stages` needs; empty if the user's own network cannot be traced.

    `has`: None for what this process may use. Raises `NotEnoughMemory` if one needs more, and `CompressionError`
    and `RecipeError` as the stages would.
    """
    needs = Needs(checkpoint, dataset, recipe)
    try:
        found = {stage: needs.of(stage) for stage in stages}
    except DeployError:
        raise
    except UNCOUNTABLE:
        return {}
    _stop_if_too_little(found, has or capacity(), recipe)
    return found


def check_memory_quickly(checkpoint: Checkpoint, dataset: Dataset, recipe: Recipe, *, since: str) -> None:
    """Check the stages from `since` on; if a rough upper bound fits into memory, nothing is counted."""
    has = capacity()
    if Needs(checkpoint, dataset, recipe).at_most > has.total:
        check_memory(checkpoint, dataset, recipe, stages=ORDER[ORDER.index(since) :], has=has)


def _stop_if_too_little(needs: Mapping[str, int], has: Capacity, recipe: Recipe) -> None:
    worst = max(needs, key=lambda stage: needs[stage], default=None)
    if worst is None or needs[worst] <= has.total:
        return
    where = "this machine has" if has.limited_by is None else f"{has.limited_by} allows"
    now = f", of which {gib(has.available)} are free now" if has.available < has.total else ""
    cures = ["Use a machine with more memory"]
    if has.limited_by is not None:
        cures.append("raise that limit (docker run --memory, MemoryMax of systemd)")
    if recipe.nproc > 1:
        cures.append(f"use fewer processes than {recipe.nproc} (--nproc)")
    needed = f"stage {worst} needs about {gib(needs[worst])} of memory"
    raise NotEnoughMemory(f"{needed}, {where} {gib(has.total)}{now}. {', or '.join(cures)}.")
