"""What a build would do: which stages are done, how long the rest may take, what it needs on disk."""

import time
from dataclasses import dataclass

from pipeline.artifacts import Checkpoint
from pipeline.build import STAGES, Build
from pipeline.data.dataset import Dataset
from pipeline.recipe import Recipe
from pipeline.steps import NotDone, Steps
from pipeline.workspace import Folder

# Passes over an image, in units of one forward pass: backward costs about twice the forward pass, and
# distillation adds the teacher's forward pass.
TRAINING_PASSES = 4.0
CALIBRATION_IMAGES = 512
# Seconds a stage takes beyond its passes over images (imports, graph writing, timing runs), rounded up.
FIXED_SECONDS = {"prune": 10.0, "quantize": 10.0, "export": 30.0, "compile": 20.0, "validate": 5.0, "package": 60.0}
PROBE_IMAGES = 16
PROBE_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    stage: str
    is_done: bool
    seconds: float
    """What it took when it is done, else the estimate."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    target: str
    stages: tuple[PlannedStage, ...]
    disk_bytes: int
    """What the stages still to do will write into the workspace; the image is the engine's."""

    @property
    def seconds_left(self) -> float:
        return sum(stage.seconds for stage in self.stages if not stage.is_done)


def plan(steps: Steps) -> Plan:
    """Load for real (it is quick, and finds what is wrong with checkpoint and data), then only look.

    The rest is estimated from a timed forward pass of the very network on this machine.
    """
    loaded = steps.load()
    build = Build(steps.looking(), until=None)
    try:
        build.run()
        missing = len(STAGES)
    except NotDone as found:
        missing = STAGES.index(found.stage)
    network = Checkpoint(folder=loaded.path)
    pass_seconds = seconds_per_image(network) if missing < len(STAGES) else 0.0
    stages = tuple(
        PlannedStage(
            stage=stage,
            is_done=index < missing,
            seconds=build.outcome.stage_seconds[stage]
            if index < missing
            else FIXED_SECONDS[stage] + pass_seconds * passes(stage, steps.recipe, steps.dataset),
        )
        for index, stage in enumerate(STAGES)
    )
    return Plan(target=steps.target.name, stages=stages, disk_bytes=disk(network, loaded, steps.dataset, missing))


def passes(stage: str, recipe: Recipe, dataset: Dataset) -> float:
    """Forward passes of one image that a stage costs."""
    training, selection, gate = len(dataset.training), len(dataset.selection), len(dataset.gate)
    is_pruned = recipe.prune.macs < 1 or recipe.prune.params < 1
    if stage == "prune":
        return recipe.prune.epochs * (training * TRAINING_PASSES + selection) if is_pruned else 0.0
    if stage == "quantize":
        return CALIBRATION_IMAGES + recipe.quantize.qat_epochs * (training * TRAINING_PASSES + selection)
    if stage == "compile":
        return 3.0 * selection
    return 2.0 * gate if stage in ("validate", "package") else 0.0


def seconds_per_image(network: Checkpoint) -> float:
    """Seconds of one float forward pass per image, in batches, on this machine."""
    import torch

    from pipeline.checkpoint import build_network

    module = build_network(network)
    images = torch.zeros(PROBE_IMAGES, *network.architecture.input_shape)
    taken = []
    with torch.inference_mode():
        for _ in range(PROBE_RUNS):
            started = time.perf_counter()
            module(images)
            taken.append(time.perf_counter() - started)
    return min(taken) / PROBE_IMAGES


def disk(network: Checkpoint, loaded: Folder, dataset: Dataset, missing: int) -> int:
    """Bytes the stages from number `missing` on will write: weights in some forms, the shard twice."""
    del loaded
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
    written = sum(copies[stage] for stage in STAGES[missing:]) * weights
    shards = 2 * gate if missing <= STAGES.index("validate") else 0
    return int(written + shards)
