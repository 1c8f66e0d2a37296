"""A stop before hours of training where a stage needs more memory than there is, not by the kernel in their midst."""

from collections.abc import Mapping, Sequence

from pipeline.artifacts import Checkpoint
from pipeline.data.readers import Dataset
from pipeline.errors import DeployError, NotEnoughMemory
from pipeline.estimate.available_memory import Capacity, capacity, gib
from pipeline.estimate.memory import Needs
from pipeline.recipe import Recipe

# What the forward pass of a user's own network raises on tensors without values; an estimate must not end a build.
UNCOUNTABLE = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)
ORDER = ("prune", "quantize", "export", "compile", "validate")


def check_memory(
    checkpoint: Checkpoint, dataset: Dataset, recipe: Recipe, *, stages: Sequence[str], has: Capacity | None = None
) -> dict[str, int]:
    """Bytes that each of `stages` needs; empty where a user's own network does what cannot be counted.

    `has`: None for what this process may use. Raises `NotEnoughMemory` where one needs more, and `CompressionError`
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
    """The same from stage `since` on; where a rough upper bound is within what there is, nothing is counted."""
    has = capacity()
    if Needs(checkpoint, dataset, recipe).at_most > has.total:
        check_memory(checkpoint, dataset, recipe, stages=ORDER[ORDER.index(since) :], has=has)


def _stop_if_too_little(needs: Mapping[str, int], has: Capacity, recipe: Recipe) -> None:
    worst = max(needs, key=lambda stage: needs[stage], default=None)
    if worst is None or needs[worst] <= has.total:
        return
    where = "this machine has" if has.limited_by is None else f"{has.limited_by} allows"
    now = f", of which {gib(has.available)} are free now" if has.available < has.total else ""
    cures = ["Take a machine with more memory"]
    if has.limited_by is not None:
        cures.append("raise that limit (docker run --memory, MemoryMax of systemd)")
    if recipe.nproc > 1:
        cures.append(f"take fewer processes than {recipe.nproc} (--nproc)")
    needed = f"stage {worst} needs about {gib(needs[worst])} of memory"
    raise NotEnoughMemory(f"{needed}, {where} {gib(has.total)}{now}. {', or '.join(cures)}.")
