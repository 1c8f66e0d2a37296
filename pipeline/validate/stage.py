"""Stage `validate` in the workspace: the gate's images, answers to them, verdicts, and publishing."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Artifact, Place, Verdict
from pipeline.load.baseline import read_gate_logits
from pipeline.results import Compiled, Judged, Loaded, Validated
from pipeline.run import Run
from pipeline.validate.gate_looks import Look, confidence_at, look, look_if_judged, looks_text
from pipeline.validate.judge import Terms, judge_predictions
from pipeline.validate.packaging_rule import may_be_packaged
from pipeline.validate.published import REPORT, is_published, keep_private, publish
from pipeline.workplace import Workplace
from pipeline.workspace.hashing import sha256_of_file
from pipeline.workspace.store import Folder, child
from targets.device.files import PREDICTIONS, SHARD
from targets.device.model.manifest import read_manifest


def validate(run: Run, loaded: Loaded, compiled: Compiled) -> Validated:
    """Judge the artifact and, if it may be packaged, its alternatives; publish what was judged."""
    shard = write_gate_shard(run, loaded)
    main = measure_and_judge(run, loaded, compiled.artifact, shard)
    models = [main]
    # If the main model stops the build, the gate's images are not used again.
    if may_be_packaged(main.report, package_undecided=run.packages_undecided):
        models += [measure_and_judge(run, loaded, each, shard) for each in compiled.artifacts[1:]]
    published = publish_models(run, shard, models)
    return Validated(shard_folder=shard, models=tuple(models), published=published)


def write_gate_shard(run: Run, loaded: Loaded) -> Folder:
    """Return the gate's images, labels and float logits: all another place needs to make the same report."""

    def work(at: Workplace) -> None:
        from pipeline.validate.shard import write_shard

        logits = read_gate_logits(loaded.folder.path)
        write_shard(logits, run.dataset, loaded.preprocessing, progress=at.progress, folder=at.folder)

    inputs = run.with_data(loaded=loaded.folder)
    return run.obtain("validate", code="pipeline.validate.shard", inputs=inputs, settings={}, work=work)


def predict(run: Run, artifact: Artifact, shard: Folder) -> Folder:
    """Return the artifact's logits on the gate's images; judging them is a separate, instant step."""

    def work(at: Workplace) -> None:
        from pipeline.validate.measure import measure_artifact

        measure_artifact(artifact.folder, shard.path / SHARD, at.folder, progress=at.progress)

    inputs = {"manifest": sha256_of_file(artifact.manifest), "shard": shard.digest}
    return run.obtain("validate", code="pipeline.validate.measure", inputs=inputs, settings={}, work=work)


def measure_and_judge(run: Run, loaded: Loaded, artifact: Artifact, shard: Folder) -> Judged:
    """Measure and judge on this host: with the target's runtime, or by simulation if that is only on its device."""
    answers = predict(run, artifact, shard)
    check_unchanged(run, artifact.folder, shard.path, answers.path)
    counted = count_look(run, loaded, artifact)
    if text := looks_text(counted, is_corrected=run.recipe.validate_.correct_looks):
        run.progress.line(f"note: {text}")
    place = Place.HOST if run.target.gpu is None else Place.SIMULATED
    file = answers.path / PREDICTIONS
    report = judge_answers(run, artifact, shard.path / SHARD, file, place=place, gate_looks=counted.number)
    return Judged(artifact=artifact, answers=answers, report=report)


def judge_answers(
    run: Run, artifact: Artifact, shard: Path, answers: Path, *, place: Place, gate_looks: int
) -> AccuracyReport:
    """Judge an artifact's answers, from any place, by the recipe's margin."""
    recipe = run.recipe
    terms = Terms(
        max_drop=recipe.validate_.max_drop,
        gate_looks=gate_looks,
        confidence=confidence_at(gate_looks, is_corrected=recipe.validate_.correct_looks),
        expected_accuracy=recipe.expected_accuracy,
    )
    return judge_predictions(shard, answers, artifact=artifact.folder, place=place, terms=terms)


def check_unchanged(run: Run, *folders: Path) -> None:
    """Check the hashes of a verdict's inputs, as no image build would check them."""
    if run.workspace.is_read_only or not run.workspace.only_look:
        run.workspace.check(*folders)


def count_look(run: Run, loaded: Loaded, artifact: Artifact) -> Look:
    """Record the look at the gate, and return which artifact of this model it is."""
    # Before TensorRT 10.12 fp16 and fp32 are built from the same file, but give different answers.
    manifest = read_manifest(artifact.folder)
    judged = manifest.model_sha256 + ("" if run.target.gpu is None else f" {manifest.precision}")
    names = {"model": loaded.folder.digest, "gate": run.dataset.gate.fingerprint, "artifact": judged}
    file = run.workspace.root / "looks.json"
    return look_if_judged(file, **names) if run.workspace.only_look else look(file, **names)


def publish_models(run: Run, shard: Folder, models: Sequence[Judged]) -> Path:
    """Publish artifacts, shard, answers and reports for the user; return the folder.

    A shard that shows people is left out unless the recipe allows it; see `published.shard_of`.
    """
    root, (main, *alternatives) = run.workspace.root, models
    # Artifacts that did not pass go to another folder, so that no trial replaces a proven artifact.
    suffix = "" if main.report.verdict is Verdict.PASS else f".{main.report.verdict}"
    destination = child(root / "artifacts", f"{run.published_as}{suffix}")
    files = _files_of(main)
    of_gate = shard.path / SHARD
    if not run.dataset.gate.is_personal or run.recipe.package.personal_images:
        files[SHARD] = of_gate
    elif not run.workspace.only_look:
        keep_private(of_gate, destination)
    reports = {REPORT: main.report}
    for each in alternatives:
        files |= {f"{each.beside}/{name}": path for name, path in _files_of(each).items()}
        reports |= {f"{each.beside}/{REPORT}": each.report}
    if not run.workspace.only_look and not is_published(destination, files, reports):
        run.workspace.check(*files.values())
        publish(destination, files, reports, scratch=root / "tmp")
    return destination


def _files_of(model: Judged) -> dict[str, Path]:
    own = sorted(path for path in model.artifact.folder.iterdir() if path.is_file())
    return {path.name: path for path in own} | {PREDICTIONS: model.predictions}
