"""Run all stages: from a trained ResNet to a proven container image, or to an error and no image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.artifacts import Checkpoint
from pipeline.compile.stage import compile_models
from pipeline.devices.inventory import Device
from pipeline.errors import DeployError, GateFailed, GateUndecided, worst_of
from pipeline.export.stage import export
from pipeline.latency.budget_check import check_time_budget
from pipeline.latency.stage import time_artifact
from pipeline.load.baseline import read_baseline
from pipeline.load.stage import load
from pipeline.outcome import Outcome
from pipeline.package.stage import defer, package
from pipeline.prune.stage import prune
from pipeline.quantize.result import read_rescue
from pipeline.quantize.stage import quantize
from pipeline.report import lines
from pipeline.results import Validated
from pipeline.run import Run
from pipeline.validate.packaging_rule import may_be_packaged, stop_if_late, stop_if_not_proven
from pipeline.validate.stage import validate
from pipeline.workspace.store import Folder

STAGES = ("load", "prune", "quantize", "export", "compile", "validate", "package")
TRAINED = ("prune", "quantize")
"""Stages that may train for hours and need the most memory."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished stage and its summary."""

    stage: str
    facts: str
    folders: Sequence[Folder]
    more: Sequence[str] = ()


def build(run: Run, *, until: str | None, devices: Sequence[Device] = ()) -> Outcome:
    """Run one target through all stages, or `until` one is done; store a `DeployError` in the outcome."""
    outcome = Outcome(target=run.target)
    before = Preconditions(run=run, until=until, devices=devices)
    run.workspace.before_work = before
    try:
        for done in run_stages(run, outcome, devices):
            seconds = sum(folder.seconds for folder in done.folders)
            was_cached = all(folder.was_cached for folder in done.folders)
            outcome.stage_seconds[done.stage] = seconds
            outcome.did_work |= not was_cached
            run.progress.line(lines.stage_line(done.stage, done.facts, seconds=seconds, was_cached=was_cached))
            for more in done.more:
                run.progress.line(lines.second_line(more))
            if done.stage == "load":
                before.checkpoint = Checkpoint(folder=done.folders[0].path)
            if done.stage == until:
                break
    except DeployError as error:
        outcome.error = error
        if isinstance(error, GateFailed | GateUndecided) and error.report is not None:
            outcome.report = error.report
    finally:
        run.workspace.before_work = None
    return outcome


def run_stages(run: Run, outcome: Outcome, devices: Sequence[Device] = ()) -> Iterator[Done]:
    """Yield each stage when it is done, after `outcome` is updated."""
    expected = run.recipe.expected_accuracy
    loaded = load(run)
    outcome.before = loaded.checkpoint.cost
    read_baseline(loaded.folder.path).check(expected)
    yield Done(stage="load", facts=lines.load_text(loaded, expected=expected), folders=[loaded.folder])

    pruned = prune(run, loaded)
    outcome.after = pruned.checkpoint.cost
    yield Done(stage="prune", facts=lines.prune_text(outcome.before, outcome.after), folders=[pruned.folder])

    quantized = quantize(run, loaded, pruned)
    outcome.rescue = read_rescue(quantized.folder.path) if quantized.is_rescued else None
    facts, more = lines.quantize_text(quantized.checkpoint), lines.rescue_texts(outcome.rescue)
    yield Done(stage="quantize", facts=facts, folders=_unique(quantized.folder, quantized.all_int8), more=more)

    exported = export(run, loaded, pruned, quantized)
    *more, facts = lines.export_texts(exported)
    yield Done(stage="export", facts=facts, folders=_unique(exported.baseline, *exported.models.values()), more=more)

    compiled = compile_models(run, loaded, quantized, exported)
    outcome.artifact = compiled.artifact
    outcome.timeliness = check_time_budget(
        pruned.folder.path,
        compiled.artifact,
        lambda again: time_artifact(run, loaded, compiled.artifact, again=again),
    )
    facts, *more = lines.compile_texts(compiled, outcome.timeliness, fallback=run.fallback)
    yield Done(stage="compile", facts=facts, folders=compiled.folders, more=more)

    validated = validate(run, loaded, compiled)
    outcome.report, outcome.variants = validated.main.report, validated.alternatives
    outcome.published = validated.published
    facts, *more = lines.verdict_texts(validated)
    folders = [validated.shard_folder, *(each.answers for each in validated.models)]
    yield Done(stage="validate", facts=facts, folders=folders, more=more)

    yield from deliver(run, outcome, _stop_unless_shippable(run, outcome, validated), devices)


def deliver(run: Run, outcome: Outcome, validated: Validated, devices: Sequence[Device]) -> Iterator[Done]:
    """Build the image here, on its devices, or write its build context if the engine is built elsewhere."""
    if devices:
        _dispatch(run, outcome, validated, devices)
        return
    if not run.recipe.package.image:
        run.progress.line("package   skipped: the recipe requests no image")
        return
    packaged = package(run, validated) if run.target.gpu is None else defer(run, validated)
    outcome.image, outcome.context = packaged.image, packaged.context
    if packaged.models:
        outcome.report, outcome.variants = packaged.models[0].report, packaged.models[1:]
    facts, *more = lines.package_texts(packaged, validated, fallback=run.fallback)
    yield Done(stage="package", facts=facts, folders=packaged.folders, more=more)


def _dispatch(run: Run, outcome: Outcome, validated: Validated, devices: Sequence[Device]) -> None:
    """Build and prove the image on the devices; the worst of their errors becomes the target's."""
    from pipeline.devices.dispatch import dispatch

    done = dispatch(run, devices, validated)
    outcome.delivered, outcome.error = tuple(done), worst_of([each.error for each in done if each.error])
    outcome.did_work |= not all(each.was_done_before for each in done)
    run.progress.line(lines.delivered_text(done))


def _stop_unless_shippable(run: Run, outcome: Outcome, validated: Validated) -> Validated:
    """Return `validated` with only the alternatives that go into the image; a failing rival is only left out."""
    main = validated.main
    stop_if_not_proven(main.report, package_undecided=run.packages_undecided)
    stop_if_late(outcome.timeliness, main.artifact)
    allowed = [main]
    for each in validated.alternatives:
        if may_be_packaged(each.report, package_undecided=run.packages_undecided):
            allowed.append(each)
        elif run.fallback == "fastest":
            run.progress.line(f"note: not in the image: {each.name}, {each.report.verdict}")
        else:
            stop_if_not_proven(each.report, package_undecided=run.packages_undecided, of=f"{each.name}: ")
    return replace(validated, models=tuple(allowed))


@dataclass(kw_only=True)
class Preconditions:
    """Checks before a stage works, so that hours of training are not wasted."""

    run: Run
    until: str | None
    devices: Sequence[Device]
    checkpoint: Checkpoint | None = None
    """The loaded checkpoint, once there is one."""
    has_begun: bool = False

    def __call__(self, stage: str) -> None:
        """Check before the work of `stage`; a build with nothing to do never asks the engine."""
        if not self.has_begun and stage != "package":
            self.has_begun = True
            self._look_at_base_and_disk()
        if stage in TRAINED and self.checkpoint is not None:
            from pipeline.estimate.memory_check import check_memory_quickly

            check_memory_quickly(self.checkpoint, self.run.dataset, self.run.recipe, since=stage)

    def _look_at_base_and_disk(self) -> None:
        from pipeline.package.prerequisites import check_base, check_scratch

        recipe = self.run.recipe
        check_scratch(None if recipe.checkpoint is None else Path(recipe.checkpoint))
        if recipe.package.image and self.until in (None, "package"):
            check_base(self.run.target, recipe, on_devices=bool(self.devices), progress=self.run.progress)


def _unique(*folders: Folder) -> list[Folder]:
    return list({folder.path: folder for folder in folders}.values())
