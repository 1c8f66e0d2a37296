"""What a build would do: which stages are done, how long the rest may take, what it needs in memory and on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING

from pipeline.artifacts import Checkpoint
from pipeline.build import STAGES, Build
from pipeline.data.readers import Dataset
from pipeline.recipe import Recipe
from pipeline.steps import Steps, read_preprocessing
from pipeline.workspace.store import NotDone
from targets.device.model.preprocess import Preprocessing

if TYPE_CHECKING:
    from pipeline.estimate.time import Effort

# Seconds a stage takes beyond its passes over images (imports, graph writing, timing runs), rounded up.
FIXED_SECONDS = {"prune": 10.0, "quantize": 10.0, "export": 30.0, "compile": 20.0, "validate": 5.0, "package": 60.0}
PROFILE_SECONDS = 150.0
"""Of a latency table: 100 s for ResNet-20."""
STOPWATCH_SECONDS = 100.0
"""Of the networks that are timed before one is chosen: 60 s for ResNet-20, 130 s for ResNet-56."""


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    stage: str
    is_done: bool
    seconds: float
    """What it took when it is done, else the estimate of what is left."""
    epochs_done: int = 0
    """Of an unfinished stage's training, which goes on after them."""
    memory_bytes: int | None = None
    """At its peak; None where it is done, or where a network of the user's own cannot be followed."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    target: str
    stages: tuple[PlannedStage, ...]
    disk_bytes: int
    """What the stages still to do will write into the workspace; the image is the engine's."""

    @property
    def memory_bytes(self) -> int | None:
        """At the peak of what is left to do; None where nothing is, or nothing is known."""
        return max((stage.memory_bytes for stage in self.stages if stage.memory_bytes is not None), default=None)

    @property
    def seconds_left(self) -> float:
        return sum(stage.seconds for stage in self.stages if not stage.is_done)


def plan(steps: Steps) -> Plan:
    """Load for real (it is quick, and finds what is wrong with checkpoint and data), then only look.

    The rest is estimated from what is to be done with images, tried for a moment on this machine. Raises
    `NotEnoughMemory` before that where a stage needs more than this process may use.
    """
    loaded = steps.load()
    build = Build(steps.looking(), until=None)
    missing, epochs_done = len(STAGES), 0
    try:
        error = build.run().error
        if error is not None:
            steps.progress.line(f"{steps.target.name}: a build would end with: {error}")
    except NotDone as found:
        # The latency table is made on the way to what it is for.
        missing = STAGES.index("prune" if found.stage == "profile" else found.stage)
        epochs_done = found.epochs_done
    # A stage that is neither done nor missing will not run: no image is asked for, or the gate is not passed.
    last = len(STAGES) if steps.recipe.package.image else STAGES.index("package")
    done = tuple(
        PlannedStage(stage=stage, is_done=True, seconds=seconds)
        for stage, seconds in build.outcome.stage_seconds.items()
    )
    network, stages = Checkpoint(folder=loaded.path), STAGES[missing:last]
    # Of a ResNet-50 at 224 x 224 each takes a minute.
    with steps.progress.task("memory of the stages", 1):
        memory = _memory(network, steps, stages)
    with steps.progress.task("time of the stages, tried", 1):
        effort = _effort(network, steps, read_preprocessing(loaded), stages)
    to_do = tuple(
        PlannedStage(
            stage=stage,
            is_done=False,
            seconds=fixed_seconds(stage, steps.recipe)
            + (effort.seconds(stage, steps.recipe, steps.dataset, epochs_done=kept) if effort else 0.0),
            epochs_done=kept,
            memory_bytes=memory.get(stage),
        )
        for stage, kept in zip(stages, chain([epochs_done], repeat(0)), strict=False)
    )
    disk_bytes = disk(network, steps.dataset, stages)
    return Plan(target=steps.target.name, stages=(*done, *to_do), disk_bytes=disk_bytes)


def _memory(network: Checkpoint, steps: Steps, stages: Sequence[str]) -> dict[str, int]:
    """Bytes by stage; looked at first, as a trial that runs out of memory tells nothing."""
    if not stages:
        return {}
    from pipeline.estimate.memory_check import check_memory

    return check_memory(network, steps.dataset, steps.recipe, stages=stages)


def _effort(network: Checkpoint, steps: Steps, preprocessing: Preprocessing, stages: Sequence[str]) -> "Effort | None":
    """None where nothing is left to do, which is to be known without PyTorch."""
    if not stages:
        return None
    from pipeline.estimate.time import effort_of

    return effort_of(network, steps.dataset, preprocessing, steps.recipe, stages=stages)


def fixed_seconds(stage: str, recipe: Recipe) -> float:
    """Seconds of a stage beside its images; a saturation-safe variant is exported and compiled in `compile`."""
    seconds = FIXED_SECONDS[stage]
    if stage == "prune" and recipe.prune.by_clock:
        seconds += STOPWATCH_SECONDS + (PROFILE_SECONDS if recipe.prune.table is None else 0.0)
    if stage == "compile" and recipe.quantize.saturation_safe:
        seconds += FIXED_SECONDS["export"] + FIXED_SECONDS["compile"]
    return seconds


def disk(network: Checkpoint, dataset: Dataset, stages: Sequence[str]) -> int:
    """Bytes that `stages` will write: weights in some forms, the shard twice."""
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
