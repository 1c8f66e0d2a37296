"""What a build would do: which stages are done, how long the rest may take, what it needs on disk."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat

from pipeline.artifacts import Checkpoint
from pipeline.build import STAGES, Build
from pipeline.data.dataset import Dataset
from pipeline.recipe import Recipe
from pipeline.steps import Steps
from pipeline.workspace import NotDone

# Passes over an image, in units of one forward pass: backward costs about twice the forward pass, and
# distillation adds the teacher's forward pass.
TRAINING_PASSES = 4.0
CALIBRATION_IMAGES = 512
# Seconds a stage takes beyond its passes over images (imports, graph writing, timing runs), rounded up.
FIXED_SECONDS = {"prune": 10.0, "quantize": 10.0, "export": 30.0, "compile": 20.0, "validate": 5.0, "package": 60.0}
PROFILE_SECONDS = 150.0
"""Of a latency table: 100 s for ResNet-20."""
PROBE_IMAGES = 16
PROBE_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    stage: str
    is_done: bool
    seconds: float
    """What it took when it is done, else the estimate of what is left."""
    epochs_done: int = 0
    """Of an unfinished stage's training, which goes on after them."""


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
    network = Checkpoint(folder=loaded.path)
    pass_seconds = seconds_per_image(network) if missing < last else 0.0
    to_do = tuple(
        PlannedStage(
            stage=stage,
            is_done=False,
            seconds=fixed_seconds(stage, steps.recipe)
            + pass_seconds * passes(stage, steps.recipe, steps.dataset, epochs_done=kept),
            epochs_done=kept,
        )
        for stage, kept in zip(STAGES[missing:last], chain([epochs_done], repeat(0)), strict=False)
    )
    disk_bytes = disk(network, steps.dataset, STAGES[missing:last])
    return Plan(target=steps.target.name, stages=(*done, *to_do), disk_bytes=disk_bytes)


def fixed_seconds(stage: str, recipe: Recipe) -> float:
    """Seconds of a stage beyond its passes; a saturation-safe variant is exported and compiled in `compile`."""
    if stage == "prune" and recipe.prune.by_clock and recipe.prune.table is None:
        return FIXED_SECONDS[stage] + PROFILE_SECONDS
    is_twice = stage == "compile" and recipe.quantize.saturation_safe
    return FIXED_SECONDS[stage] + (FIXED_SECONDS["export"] + FIXED_SECONDS["compile"] if is_twice else 0.0)


def passes(stage: str, recipe: Recipe, dataset: Dataset, *, epochs_done: int = 0) -> float:
    """Forward passes of one image that a stage costs, after the epochs of its training that are done."""
    training, selection, gate = len(dataset.training), len(dataset.selection), len(dataset.gate)
    epoch = training * TRAINING_PASSES + selection
    if stage == "prune":
        return (recipe.prune.epochs - epochs_done) * epoch if recipe.prune.prunes else 0.0
    if stage == "quantize":
        return CALIBRATION_IMAGES + (recipe.quantize.qat_epochs - epochs_done) * epoch
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
