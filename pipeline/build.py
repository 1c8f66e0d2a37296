"""The story: a trained ResNet goes in, a proven container image comes out, or nothing does."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline import narration
from pipeline.artifacts import AccuracyReport, Artifact, Checkpoint, Cost, Dialect, Image, Place
from pipeline.baseline import read_baseline
from pipeline.choice import choose, read_compilation
from pipeline.errors import DeployError, GateFailed, GateUndecided, LatencyMissed, worst_of
from pipeline.exported import read_export
from pipeline.fallback import Fallback
from pipeline.gatekeeper import may_be_packaged, stop_if_late, stop_if_not_proven
from pipeline.looks import confidence_at, looks_text
from pipeline.remote.delivered import Delivered
from pipeline.remote.device import Device
from pipeline.rescued import Rescue, read_rescue
from pipeline.steps import Steps
from pipeline.timeliness import Timeliness, settle
from pipeline.validate import Terms, judge_predictions
from pipeline.variant import NAME, Variant, name_of, others_of, variant_of, why_needless
from pipeline.workspace import Folder
from targets.base import Target
from targets.device.files import PREDICTIONS, SHARD
from targets.device.variant import FOLDER

ANSWERS = (GateFailed, GateUndecided, LatencyMissed)
"""Errors that are what a build has found out, not what kept it from going on."""
STAGES = ("load", "prune", "quantize", "export", "compile", "validate", "package")


@dataclass(kw_only=True)
class Outcome:
    """What became of one target: everything up to the stage that failed, if one did."""

    target: Target
    error: DeployError | None = None
    before: Cost | None = None
    after: Cost | None = None
    rescue: Rescue | None = None
    """Where int8 in every layer would have lost more than is allowed."""
    artifact: Artifact | None = None
    timeliness: Timeliness | None = None
    """Where a time was asked for."""
    report: AccuracyReport | None = None
    variants: tuple[Variant, ...] = ()
    """Models beside the main one, once they are judged."""
    image: Image | None = None
    context: Path | None = None
    """Of an image whose engine is built, and proven, where it is started."""
    published: Path | None = None
    delivered: tuple[Delivered, ...] = ()
    """What became of each device that was asked for."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds each stage took when it was done, in this build or an earlier one."""
    did_work: bool = False

    @property
    def was_done_before(self) -> bool:
        """Whether nothing was left to do; a gate that says no has been asked before, too."""
        return not self.did_work and (self.error is None or isinstance(self.error, ANSWERS))


class StoppedOnPurpose(Exception):
    """The stage asked for is done (`deploy prune`, …)."""


class Build:
    """One target's way through the stages; `outcome` grows with it, whatever happens."""

    def __init__(self, steps: Steps, *, until: str | None, devices: Sequence[Device] = ()) -> None:
        self.outcome = Outcome(target=steps.target)
        self._steps = steps
        self._devices = devices
        self._until = until

    def run(self) -> Outcome:
        """Take the target through the stages; an error of ours ends in the outcome."""
        self._steps.workspace.before_work = self._look_first
        try:
            self._story()
        except StoppedOnPurpose:
            pass
        except DeployError as error:
            self.outcome.error = error
        finally:
            self._steps.workspace.before_work = None
        return self.outcome

    def _look_first(self) -> None:
        # Here alone: a build with nothing to do asks no engine.
        from pipeline.outset import check_base, check_scratch

        recipe = self._steps.recipe
        check_scratch(None if recipe.checkpoint is None else Path(recipe.checkpoint))
        if recipe.package.image and self._until in (None, "package"):
            check_base(self._steps.target, recipe, on_devices=bool(self._devices), progress=self._steps.progress)

    def _story(self) -> None:
        loaded = self._load()
        pruned = self._prune(loaded)
        quantized = self._quantize(loaded, pruned)
        baseline, models = self._export(loaded, pruned, quantized)
        artifact, others = self._compile(loaded, pruned, quantized, baseline, models)
        shard, predictions, report, variants = self._validate(loaded, artifact, others)
        self._package(artifact, report, shard, predictions, variants)

    def _load(self) -> Folder:
        loaded = self._steps.load()
        expected = self._steps.recipe.expected_accuracy
        self.outcome.before = Checkpoint(folder=loaded.path).cost
        read_baseline(loaded.path).check(expected)
        return self._done("load", narration.load_text(loaded.path, expected=expected), loaded)

    def _prune(self, loaded: Folder) -> Folder:
        pruned = self._steps.prune(loaded)
        before, after = Checkpoint(folder=loaded.path).cost, Checkpoint(folder=pruned.path).cost
        self.outcome.after = after
        return self._done("prune", narration.prune_text(before, after), pruned)

    def _quantize(self, loaded: Folder, pruned: Folder) -> Folder:
        quantized = self._steps.quantize(loaded, pruned)
        rescued = self._steps.rescue(loaded, pruned, quantized)
        folders = [quantized] if rescued is None else [rescued, quantized]
        self.outcome.rescue = None if rescued is None else read_rescue(rescued.path)
        text = narration.quantize_text(Checkpoint(folder=folders[0].path))
        return self._done("quantize", text, *folders, also=narration.rescue_texts(self.outcome.rescue))

    def _export(self, loaded: Folder, pruned: Folder, quantized: Folder) -> tuple[Folder, dict[Dialect, Folder]]:
        baseline = self._steps.export(loaded, loaded, Dialect.FLOAT)
        models = self._steps.exports(loaded, pruned, quantized)
        *others, last = (narration.export_text(read_export(models[each].path)[each]) for each in models)
        self._done("export", last, *dict.fromkeys((baseline, *models.values())), also=others)
        return baseline, models

    def _compile(
        self, loaded: Folder, pruned: Folder, quantized: Folder, baseline: Folder, models: dict[Dialect, Folder]
    ) -> tuple[Artifact, tuple[Artifact, ...]]:
        compiled = self._steps.compile(loaded, baseline, models)
        max_drop = self._steps.recipe.validate_.max_drop
        compilation = read_compilation(compiled.path)
        artifact = choose(compilation, target=self._steps.target, max_drop=max_drop)
        self.outcome.artifact = artifact
        self.outcome.timeliness = settle(
            pruned.path, artifact, lambda again: self._steps.clocked(loaded, artifact, again=again)
        )
        others, made = self._saturation_safe(loaded, quantized, baseline, artifact)
        if self._steps.target.gpu is not None:
            others = others_of(artifact, compilation, fallback=self._fallback, max_drop=max_drop)
        also = [narration.compile_text(other) for other in others]
        if self._fallback == "fastest" and not others:
            also = [f"no precision besides {artifact.precision} is within the budget: nothing is timed against it"]
        if self.outcome.timeliness is not None:
            also.append(str(self.outcome.timeliness))
        self._done("compile", narration.compile_text(artifact), compiled, *made, also=also)
        return artifact, others

    def _saturation_safe(
        self, loaded: Folder, quantized: Folder, baseline: Folder, artifact: Artifact
    ) -> tuple[tuple[Artifact, ...], tuple[Folder, ...]]:
        if not self._steps.recipe.quantize.saturation_safe:
            return (), ()
        needless = why_needless(artifact, self._steps.target, weight_bits=self._steps.weight_bits)
        if needless is not None:
            self._steps.progress.line(f"note: {needless}")
            return (), ()
        folders = self._steps.saturation_safe(loaded, quantized, baseline)
        return (variant_of(artifact, read_compilation(folders[-1].path)),), folders

    def _validate(
        self, loaded: Folder, artifact: Artifact, others: Sequence[Artifact]
    ) -> tuple[Folder, Folder, AccuracyReport, tuple[Variant, ...]]:
        shard = self._steps.shard(loaded)
        predictions, report = self._measure(loaded, artifact, shard)
        self.outcome.report = report
        # Where the main model ends the build, the gate's images are not looked at once more.
        if may_be_packaged(report, package_undecided=self._packages_undecided):
            self.outcome.variants = tuple(self._variant(loaded, other, shard) for other in others)
        variants = self.outcome.variants
        self.outcome.published = self._steps.publish(artifact, shard, predictions, report, variants)
        folders = [shard, predictions, *(variant.answers for variant in variants)]
        also = [f"{variant.name}: {narration.verdict_text(variant.report)}" for variant in variants]
        self._done("validate", narration.verdict_text(report), *folders, also=also)
        return shard, predictions, report, variants

    def _variant(self, loaded: Folder, other: Artifact, shard: Folder) -> Variant:
        answers, report = self._measure(loaded, other, shard)
        if self._steps.target.gpu is None:
            return Variant(artifact=other, answers=answers, report=report, name=NAME, folder=FOLDER)
        name, folder = name_of(other.precision, self._fallback), other.precision.value
        return Variant(artifact=other, answers=answers, report=report, name=name, folder=folder)

    def _measure(self, loaded: Folder, artifact: Artifact, shard: Folder) -> tuple[Folder, AccuracyReport]:
        predictions = self._steps.predict(artifact, shard)
        self._check(artifact.folder, shard.path, predictions.path)
        look = self._steps.count_look(loaded, artifact)
        if text := looks_text(look, is_corrected=self._steps.recipe.validate_.correct_looks):
            self._steps.progress.line(f"note: {text}")
        answers = predictions.path / PREDICTIONS
        place = Place.HOST if self._steps.target.gpu is None else Place.SIMULATED
        return predictions, self._judge(artifact, shard, answers, place=place, gate_looks=look.number)

    @property
    def _packages_undecided(self) -> bool:
        return self._steps.recipe.validate_.undecided == "package"

    @property
    def _fallback(self) -> Fallback:
        """None on a CPU, which needs no engine."""
        return "none" if self._steps.target.gpu is None else self._steps.recipe.package.fallback

    def _allowed(self, variants: Sequence[Variant]) -> list[Variant]:
        """Those that go into the image: all, or there is none; but a rival that does not pass only stays out of it."""
        allowed = []
        for each in variants:
            if may_be_packaged(each.report, package_undecided=self._packages_undecided):
                allowed.append(each)
            elif self._fallback == "fastest":
                self._steps.progress.line(f"note: not in the image: {each.name}, {each.report.verdict}")
            else:
                stop_if_not_proven(each.report, package_undecided=self._packages_undecided, of=f"{each.name}: ")
        return allowed

    def _package(
        self,
        artifact: Artifact,
        report: AccuracyReport,
        shard: Folder,
        predictions: Folder,
        judged: Sequence[Variant],
    ) -> None:
        recipe, may_be_undecided = self._steps.recipe, self._packages_undecided
        stop_if_not_proven(report, package_undecided=may_be_undecided)
        stop_if_late(self.outcome.timeliness, artifact)
        variants = self._allowed(judged)
        if self._devices:
            self._dispatch(artifact, report, shard, variants)
            return
        if not recipe.package.image:
            self._steps.progress.line("package   skipped: no image was asked for")
            return
        if self._steps.target.gpu is not None:
            self._defer(artifact, report, shard, variants)
            return
        variant = next(iter(variants), None)

        def judge(answers: Path, place: Place) -> AccuracyReport:
            there = self._judge(artifact, shard, answers, place=place, gate_looks=report.gate_looks)
            self.outcome.report = there
            return there

        def gate(answers: Path, place: Place) -> AccuracyReport:
            there = judge(answers, place)
            self._steps.publish(artifact, shard, predictions, there)
            stop_if_not_proven(there, package_undecided=may_be_undecided)
            return there

        packaged, image = self._steps.package(artifact, report, shard, predictions, gate, variant)
        self._check(packaged.path)
        # The report is now about the answers that the container gave: the same ones, or judged by themselves.
        there = judge(packaged.path / PREDICTIONS, image.place)
        stop_if_not_proven(there, package_undecided=may_be_undecided)
        self.outcome.image = image
        if variant is not None:
            answers, looks = packaged.path / FOLDER / PREDICTIONS, variant.report.gate_looks
            inside = self._judge(variant.artifact, shard, answers, place=image.place, gate_looks=looks)
            self.outcome.variants = (replace(variant, report=inside),)
        # Answers that are the host's own need not be written again, and the shard with them.
        answers_of = predictions if artifact.stand_in is None else packaged
        self._steps.publish(artifact, shard, answers_of, there, self.outcome.variants)
        text = narration.image_text(image, there, is_same=artifact.stand_in is None)
        self._done("package", text, packaged, also=[f"{each.name}: in the image, answers alike" for each in variants])

    def _defer(self, artifact: Artifact, report: AccuracyReport, shard: Folder, others: Sequence[Variant]) -> None:
        """The engine is built and proven where the image is started; see `pipeline.pending`."""
        from pipeline.deferral import defer

        pending, folders = defer(self._steps, artifact, report, shard, others)
        self.outcome.image, self.outcome.context = pending.image, pending.context
        rivals = [each.artifact.precision for each in others] if self._fallback == "fastest" else []
        text = narration.pending_text(pending.context, pending.image, artifact.precision, rivals)
        self._done("package", text, *folders, also=[pending.words])

    def _dispatch(self, artifact: Artifact, report: AccuracyReport, shard: Folder, others: Sequence[Variant]) -> None:
        """Devices build and prove the image, see `pipeline.remote`; the worst of their errors is the target's."""
        from pipeline.remote.dispatch import dispatch

        published = self.outcome.published
        assert published is not None, "what is judged is published"
        done = dispatch(self._steps, self._devices, artifact, report, shard, others, published)
        self.outcome.delivered, self.outcome.error = tuple(done), worst_of([each.error for each in done if each.error])
        self.outcome.did_work |= not all(each.was_done_before for each in done)
        self._steps.progress.line(narration.delivered_text(done))

    def _check(self, *folders: Path) -> None:
        """Hash what a verdict is made of; nobody judges it again where no image is built anew."""
        workspace = self._steps.workspace
        if workspace.is_read_only or not workspace.only_look:
            self._steps.workspace.check(*folders)

    def _judge(
        self, artifact: Artifact, shard: Folder, answers: Path, *, place: Place, gate_looks: int
    ) -> AccuracyReport:
        recipe = self._steps.recipe
        return judge_predictions(
            shard.path / SHARD,
            answers,
            artifact=artifact.folder,
            place=place,
            terms=Terms(
                max_drop=recipe.validate_.max_drop,
                gate_looks=gate_looks,
                confidence=confidence_at(gate_looks, is_corrected=recipe.validate_.correct_looks),
                expected_accuracy=recipe.expected_accuracy,
            ),
        )

    def _done(self, stage: str, facts: str, *folders: Folder, also: Sequence[str] = ()) -> Folder:
        seconds = sum(folder.seconds for folder in folders)
        was_cached = all(folder.was_cached for folder in folders)
        self.outcome.stage_seconds[stage] = seconds
        self.outcome.did_work |= not was_cached
        self._steps.progress.line(narration.stage_line(stage, facts, seconds=seconds, was_cached=was_cached))
        for more in also:
            self._steps.progress.line(narration.second_line(more))
        if stage == self._until and stage != "package":
            raise StoppedOnPurpose
        return folders[0]
