"""The story: a trained ResNet goes in, a proven container image comes out, or nothing does."""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline import narration
from pipeline.artifacts import AccuracyReport, Artifact, Checkpoint, Cost, Dialect, Image, Place, Verdict
from pipeline.choice import choose, read_compilation
from pipeline.errors import DeployError, GateFailed, GateUndecided
from pipeline.exported import read_export
from pipeline.predictions import PREDICTIONS
from pipeline.steps import Steps
from pipeline.validate import judge_predictions
from pipeline.workspace import Folder
from targets.base import Target

STAGES = ("load", "prune", "quantize", "export", "compile", "validate", "package")


@dataclass(kw_only=True)
class Outcome:
    """What became of one target: everything up to the stage that failed, if one did."""

    target: Target
    error: DeployError | None = None
    before: Cost | None = None
    after: Cost | None = None
    artifact: Artifact | None = None
    report: AccuracyReport | None = None
    image: Image | None = None
    published: Path | None = None
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds each stage took when it was done, in this build or an earlier one."""
    did_work: bool = False

    @property
    def was_done_before(self) -> bool:
        """Whether nothing was left to do; a gate that says no has been asked before, too."""
        return not self.did_work and (self.error is None or isinstance(self.error, GateFailed | GateUndecided))


class StoppedOnPurpose(Exception):
    """The stage asked for is done (`deploy prune`, …)."""


class Build:
    """One target's way through the stages; `outcome` grows with it, whatever happens."""

    def __init__(self, steps: Steps, *, until: str | None) -> None:
        self.outcome = Outcome(target=steps.target)
        self._steps = steps
        self._until = until

    def run(self) -> Outcome:
        """Take the target through the stages; an error of ours ends in the outcome."""
        try:
            self._story()
        except StoppedOnPurpose:
            pass
        except DeployError as error:
            self.outcome.error = error
        return self.outcome

    def _story(self) -> None:
        loaded = self._load()
        pruned = self._prune(loaded)
        quantized = self._quantize(loaded, pruned)
        baseline, models = self._export(loaded, quantized)
        artifact = self._compile(loaded, baseline, models)
        shard, predictions, report = self._validate(loaded, artifact)
        self._package(artifact, report, shard, predictions)

    def _load(self) -> Folder:
        loaded = self._steps.load()
        self.outcome.before = Checkpoint(folder=loaded.path).cost
        return self._done("load", narration.load_text(loaded.path), loaded)

    def _prune(self, loaded: Folder) -> Folder:
        pruned = self._steps.prune(loaded)
        before, after = Checkpoint(folder=loaded.path).cost, Checkpoint(folder=pruned.path).cost
        self.outcome.after = after
        return self._done("prune", narration.prune_text(before, after), pruned)

    def _quantize(self, loaded: Folder, pruned: Folder) -> Folder:
        quantized = self._steps.quantize(loaded, pruned)
        return self._done("quantize", narration.quantize_text(Checkpoint(folder=quantized.path)), quantized)

    def _export(self, loaded: Folder, quantized: Folder) -> tuple[Folder, Folder]:
        baseline = self._steps.export(loaded, loaded, (Dialect.FLOAT,))
        models = self._steps.export(loaded, quantized, tuple(Dialect))
        self._done(
            "export", narration.export_text(read_export(models.path)[self._steps.target.dialect]), baseline, models
        )
        return baseline, models

    def _compile(self, loaded: Folder, baseline: Folder, models: Folder) -> Artifact:
        compiled = self._steps.compile(loaded, baseline, models)
        max_drop = self._steps.recipe.validate_.max_drop
        artifact = choose(read_compilation(compiled.path), target=self._steps.target, max_drop=max_drop)
        self.outcome.artifact = artifact
        self._done("compile", narration.compile_text(artifact), compiled)
        return artifact

    def _validate(self, loaded: Folder, artifact: Artifact) -> tuple[Folder, Folder, AccuracyReport]:
        shard = self._steps.shard(loaded)
        predictions = self._steps.predict(artifact, shard)
        looks = self._steps.count_look(loaded, artifact)
        answers = predictions.path / PREDICTIONS
        report = self._judge(artifact, shard, answers, place=Place.HOST, gate_looks=looks)
        self.outcome.report = report
        self.outcome.published = self._steps.publish(artifact, shard, predictions, report)
        self._done("validate", narration.verdict_text(report), shard, predictions)
        return shard, predictions, report

    def _package(self, artifact: Artifact, report: AccuracyReport, shard: Folder, predictions: Folder) -> None:
        recipe = self._steps.recipe
        stop_if_not_proven(report, package_undecided=recipe.validate_.undecided == "package")
        if not recipe.package.image:
            self._steps.progress.line("package   skipped: no image was asked for")
            return
        may_be_undecided = recipe.validate_.undecided == "package"

        def judge(answers: Path, place: Place) -> AccuracyReport:
            there = self._judge(artifact, shard, answers, place=place, gate_looks=report.gate_looks)
            self.outcome.report = there
            return there

        def gate(answers: Path, place: Place) -> AccuracyReport:
            there = judge(answers, place)
            self._steps.publish(artifact, shard, predictions, there)
            stop_if_not_proven(there, package_undecided=may_be_undecided)
            return there

        packaged, image = self._steps.package(artifact, report, shard, predictions, gate)
        # The report is now about the answers that the container gave: the same ones, or judged by themselves.
        there = judge(packaged.path / PREDICTIONS, image.place)
        stop_if_not_proven(there, package_undecided=may_be_undecided)
        self.outcome.image = image
        # Answers that are the host's own need not be written again, and the shard with them.
        self._steps.publish(artifact, shard, predictions if artifact.stand_in is None else packaged, there)
        self._done("package", narration.image_text(image, there, is_same=artifact.stand_in is None), packaged)

    def _judge(
        self, artifact: Artifact, shard: Folder, answers: Path, *, place: Place, gate_looks: int
    ) -> AccuracyReport:
        return judge_predictions(
            shard.path / "shard.zip",
            answers,
            artifact=artifact.folder,
            place=place,
            max_drop=self._steps.recipe.validate_.max_drop,
            gate_looks=gate_looks,
        )

    def _done(self, stage: str, facts: str, *folders: Folder) -> Folder:
        seconds = sum(folder.seconds for folder in folders)
        was_cached = all(folder.was_cached for folder in folders)
        self.outcome.stage_seconds[stage] = seconds
        self.outcome.did_work |= not was_cached
        self._steps.progress.line(narration.stage_line(stage, facts, seconds=seconds, was_cached=was_cached))
        if stage == self._until and stage != "package":
            raise StoppedOnPurpose
        return folders[0]


def stop_if_not_proven(report: AccuracyReport, *, package_undecided: bool) -> None:
    """Raise where the verdict forbids an image."""
    text = narration.verdict_text(report)
    if report.verdict is Verdict.FAIL:
        raise GateFailed(f"{text}. No image was built; artifact and report are kept.")
    if report.verdict is Verdict.UNDECIDED and not package_undecided:
        raise GateUndecided(
            f"{text} No image was built; artifact and report are kept. "
            "To build one that is labelled undecided: --undecided package."
        )
