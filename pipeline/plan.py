"""What a build would do: finished stages, time left, memory and disk needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING

from pipeline.artifacts import Checkpoint
from pipeline.build import STAGES, run_stages
from pipeline.data.readers import Dataset
from pipeline.errors import DeployError
from pipeline.load.stage import load
from pipeline.outcome import Outcome
from pipeline.recipe import Recipe
from pipeline.run import Run
from pipeline.workspace.store import NotDone
from targets.device.model.preprocess import Preprocessing

if TYPE_CHECKING:
    from pipeline.estimate.time import Effort

# Seconds per stage besides passes over images (imports, graph writing, timing runs), rounded up.
FIXED_SECONDS = {"prune": 10.0, "quantize": 10.0, "export": 30.0, "compile": 20.0, "validate": 5.0, "package": 60.0}
PROFILE_SECONDS = 150.0
"""For measuring a latency table: 100 s for ResNet-20."""
STOPWATCH_SECONDS = 100.0
"""For timing the networks of which one is chosen: 60 s for ResNet-20, 130 s for ResNet-56."""


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    stage: str
    is_done: bool
    seconds: float
    """Measured if the stage is done, else an estimate of the rest."""
    epochs_done: int = 0
    """Finished epochs of an unfinished stage's training, which resumes after them."""
    memory_bytes: int | None = None
    """At its peak; None if the stage is done, or if the user's own network cannot be traced."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    target: str
    stages: tuple[PlannedStage, ...]
    disk_bytes: int
    """Bytes that the remaining stages will write into the workspace; the image is stored by the engine."""

    @property
    def memory_bytes(self) -> int | None:
        """Peak of the remaining stages in bytes; None if nothing remains or nothing is known."""
        return max((stage.memory_bytes for stage in self.stages if stage.memory_bytes is not None), default=None)

    @property
    def seconds_left(self) -> float:
        return sum(stage.seconds for stage in self.stages if not stage.is_done)


def plan(run: Run) -> Plan:
    """Run stage `load` (it is quick and checks checkpoint and data); only estimate the others.

    Times are estimated from short trials on this machine. Raises `NotEnoughMemory` before the trials if a stage
    needs more memory than this process may use.
    """
    loaded = load(run)
    seconds: dict[str, float] = {}
    missing, epochs_done = len(STAGES), 0
    try:
        for done in run_stages(run.dry_run(), Outcome(target=run.target)):
            seconds[done.stage] = sum(folder.seconds for folder in done.folders)
    except DeployError as error:
        run.progress.line(f"{run.target.name}: the build would end with: {error}")
    except NotDone as found:
        # The latency table is listed before the stage that uses it.
        missing = STAGES.index("prune" if found.stage == "profile" else found.stage)
        epochs_done = found.epochs_done
    # A stage that is neither done nor missing will not run: no image is requested, or the gate is not passed.
    last = len(STAGES) if run.recipe.package.image else STAGES.index("package")
    finished = (PlannedStage(stage=stage, is_done=True, seconds=taken) for stage, taken in seconds.items())
    network, stages = loaded.checkpoint, STAGES[missing:last]
    # A ResNet-50 at 224 x 224 takes a minute for each.
    with run.progress.task("memory of the stages", 1):
        memory = _memory(network, run, stages)
    with run.progress.task("time of the stages, measured", 1):
        effort = _effort(network, run, loaded.preprocessing, stages)
    to_do = tuple(
        PlannedStage(
            stage=stage,
            is_done=False,
            seconds=fixed_seconds(stage, run.recipe)
            + (effort.seconds(stage, run.recipe, run.dataset, epochs_done=kept) if effort else 0.0),
            epochs_done=kept,
            memory_bytes=memory.get(stage),
        )
        for stage, kept in zip(stages, chain([epochs_done], repeat(0)), strict=False)
    )
    disk_bytes = disk(network, run.dataset, stages)
    return Plan(target=run.target.name, stages=(*finished, *to_do), disk_bytes=disk_bytes)


def _memory(network: Checkpoint, run: Run, stages: Sequence[str]) -> dict[str, int]:
    """Return bytes by stage. Called before the trials: a trial that runs out of memory gives no estimate."""
    if not stages:
        return {}
    from pipeline.estimate.memory_check import check_memory

    return check_memory(network, run.dataset, run.recipe, stages=stages)


def _effort(network: Checkpoint, run: Run, preprocessing: Preprocessing, stages: Sequence[str]) -> "Effort | None":
    """Return None if nothing is left to do; that is decided without importing PyTorch."""
    if not stages:
        return None
    from pipeline.estimate.time import effort_of

    return effort_of(network, run.dataset, preprocessing, run.recipe, stages=stages)


def fixed_seconds(stage: str, recipe: Recipe) -> float:
    """Return a stage's seconds besides its images; a saturation-safe variant is exported and compiled in `compile`."""
    seconds = FIXED_SECONDS[stage]
    if stage == "prune" and recipe.prune.by_clock:
        seconds += STOPWATCH_SECONDS + (PROFILE_SECONDS if recipe.prune.table is None else 0.0)
    if stage == "compile" and recipe.quantize.saturation_safe:
        seconds += FIXED_SECONDS["export"] + FIXED_SECONDS["compile"]
    return seconds


def disk(network: Checkpoint, dataset: Dataset, stages: Sequence[str]) -> int:
    """Return the bytes that `stages` will write: weights in several forms, the shard twice."""
    weights = network.cost.weight_bytes
    gate = sum(len(dataset.gate.encoded(index)) for index in range(min(len(dataset.gate), 50)))
    gate = int(gate * len(dataset.gate) / max(1, min(len(dataset.gate), 50)))
    copies = {
        "load": 1.0,
        "prune": 1.0,
        "quantize": 1.0,
        "export": 2.5,
        "compile": 1.25,
        "validate": 1.0,
        "package": 1.0,
    }
    written = sum(copies[stage] for stage in stages) * weights
    shards = 2 * gate if "validate" in stages else 0
    return int(written + shards)
