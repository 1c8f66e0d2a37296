"""Stage `package` in the workspace: the image, or the context to build it elsewhere."""

from dataclasses import replace
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Place
from pipeline.errors import EngineMissing, PackageError
from pipeline.package.build_context import build_command, device_code
from pipeline.package.image_record import CONTEXT, WORDS, is_present, read_image, show_context
from pipeline.package.settings import DeferredSettings, ImageSettings
from pipeline.recipe import Recipe
from pipeline.results import Judged, Packaged, Validated
from pipeline.run import Run
from pipeline.validate.packaging_rule import stop_if_not_proven
from pipeline.validate.stage import check_unchanged, judge_answers, publish_models
from pipeline.workplace import Workplace
from pipeline.workspace.hashing import Json, sha256_of_file, sha256_of_folder, sha256_of_json
from pipeline.workspace.store import Folder, StageKey, child
from targets.device.files import PREDICTIONS
from targets.shipped import shipped

RECIPE_LABEL = "dev.edge-deploy.recipe.sha256"


def package(run: Run, validated: Validated) -> Packaged:
    """Return a CPU target's image, which gives the artifact's answers or is judged by its own."""
    main, variant = validated.main, next(iter(validated.alternatives), None)
    found = _build_and_ask(run, validated)
    check_unchanged(run, found.path)
    image = read_image(found.path)
    # The report is now about the container's answers: the same as the host's, or judged separately.
    asked = [_judge_answers(run, validated, main, found, found.path / PREDICTIONS, image.place)]
    stop_if_not_proven(asked[0].report, package_undecided=run.packages_undecided)
    if variant is not None:
        inside = found.path / variant.beside / PREDICTIONS
        there = _judge_answers(run, validated, variant, found, inside, image.place)
        asked.append(replace(there, answers=variant.answers))
    # Answers equal to the host's need not be written again, nor the shard.
    own = replace(asked[0], answers=main.answers) if main.artifact.place is Place.HOST else asked[0]
    publish_models(run, validated.shard_folder, [own, *asked[1:]])
    return Packaged(folders=(found,), image=image, models=tuple(asked))


def _judge_answers(
    run: Run, validated: Validated, model: Judged, packaged: Folder, answers: Path, place: Place
) -> Judged:
    looks = model.report.gate_looks
    report = judge_answers(run, model.artifact, validated.shard, answers, place=place, gate_looks=looks)
    return Judged(artifact=model.artifact, answers=packaged, report=report)


def _build_and_ask(run: Run, validated: Validated) -> Folder:
    """Return the image's folder; an image that the engine has lost is built again."""
    main, variant = validated.main, next(iter(validated.alternatives), None)
    key = _image_key(run, validated)
    _forget_if_lost(run, key)

    def judge(answers: Path, place: Place) -> AccuracyReport:
        looks = main.report.gate_looks
        report = judge_answers(run, main.artifact, validated.shard, answers, place=place, gate_looks=looks)
        publish_models(run, validated.shard_folder, [replace(main, report=report)])
        stop_if_not_proven(report, package_undecided=run.packages_undecided)
        return report

    def work(at: Workplace) -> None:
        from pipeline.package.package import package as package_model

        run.workspace.check(main.artifact.folder, validated.shard_folder.path, main.answers.path)
        package_model(
            main,
            _settings(run),
            shard=validated.shard,
            variant=variant,
            context=child(run.workspace.root / "context", run.published_as),
            judge=judge,
            at=at,
        )

    return run.obtain_by(key, work)


def _settings(run: Run) -> ImageSettings:
    recipe = run.recipe
    return ImageSettings(
        name=recipe.name,
        version=recipe.version,
        target=run.target,
        base_image=recipe.package.base_image,
        grpc=recipe.package.grpc,
        labels=recipe_label(recipe),
    )


def _image_key(run: Run, validated: Validated) -> StageKey:
    recipe, main = run.recipe, validated.main
    inputs = {
        "manifest": sha256_of_file(main.artifact.manifest),
        "shard": validated.shard_folder.digest,
        "predictions": main.answers.digest,
        **_hashes_of(validated.alternatives),
        **code_hashes(),
    }
    options: dict[str, Json] = {
        "name": recipe.name,
        "version": recipe.version,
        "target": run.target.name,
        "base_image": recipe.package.base_image,
        "grpc": recipe.package.grpc,
        **_terms(main.report),
    }
    return run.key("package", code="pipeline.package.package", inputs=inputs, settings=options)


def defer(run: Run, validated: Validated) -> Packaged:
    """Return a TensorRT target's build context, and the image if its base is available here.

    If the base is not available, `words` says why, and this is not stored; an unavailable base that was given by
    name raises.
    """
    deferred = _deferred_settings(run)
    written = write_deferred(run, validated)
    context = written.path / CONTEXT
    place = child(run.workspace.root / "context", run.published_as)
    shown = place if run.workspace.only_look else show_context(context, place)
    try:
        built = _build_deferred(run, deferred, written)
    except (EngineMissing, PackageError) as error:
        if deferred.base_image is not None and isinstance(error, PackageError):
            raise
        words = f"no image here: {error} Where its base is available: {build_command(shown, deferred.tag)}"
        return Packaged(folders=(written,), image=None, context=shown, words=words)
    words = (built.path / WORDS).read_text()
    return Packaged(folders=(written, built), image=read_image(built.path), context=shown, words=words)


def write_deferred(run: Run, validated: Validated) -> Folder:
    """Return the folder with the context of an image whose engine is built where it is started."""
    main, deferred = validated.main, _deferred_settings(run)
    inputs = {
        "manifest": sha256_of_file(main.artifact.manifest),
        "shard": validated.shard_folder.digest,
        **_hashes_of(validated.alternatives),
        **code_hashes(),
    }
    settings: dict[str, Json] = {**vars(deferred), "target": run.target.name, **_terms(main.report)}

    def work(at: Workplace) -> None:
        from pipeline.package.deferred import write_pending

        others = [each.artifact.folder for each in validated.alternatives]
        run.workspace.check(main.artifact.folder, validated.shard_folder.path, *others)
        write_pending(
            main.artifact,
            main.report,
            settings=deferred,
            shard=validated.shard,
            others=validated.alternatives,
            labels=recipe_label(run.recipe),
            progress=at.progress,
            folder=at.folder,
        )

    written = run.obtain("package", code="pipeline.package.build_context", inputs=inputs, settings=settings, work=work)
    if not run.workspace.only_look:
        # A build elsewhere uses its content.
        run.workspace.check(written.path)
    return written


def _deferred_settings(run: Run) -> DeferredSettings:
    recipe = run.recipe
    return DeferredSettings(
        name=recipe.name,
        version=recipe.version,
        target=run.target,
        base_image=recipe.package.base_image,
        grpc=recipe.package.grpc,
        undecided=recipe.validate_.undecided,
        shard_images=recipe.package.shard_images,
        fallback=recipe.package.fallback,
    )


def _build_deferred(run: Run, deferred: DeferredSettings, written: Folder) -> Folder:
    inputs = {"context": written.digest}
    key = run.key("package", code="pipeline.package.deferred", inputs=inputs, settings={})
    _forget_if_lost(run, key)

    def work(at: Workplace) -> None:
        from pipeline.package.deferred import build_pending

        build_pending(written.path / CONTEXT, deferred, progress=at.progress, folder=at.folder)

    return run.obtain_by(key, work)


def _forget_if_lost(run: Run, key: StageKey) -> None:
    found = run.workspace.find(key)
    if found is not None and not is_present(read_image(found.path)):
        run.workspace.forget(key)


def recipe_label(recipe: Recipe) -> dict[str, str]:
    """Return the image's label with the recipe it was made by."""
    return {RECIPE_LABEL: sha256_of_json(recipe.model_dump(mode="json", by_alias=True))}


def _terms(report: AccuracyReport) -> dict[str, Json]:
    """Return the terms in the image's reports: the margin and the inputs."""
    return {"max_drop": report.max_drop_points, "confidence": report.confidence, "looks": report.gate_looks}


def code_hashes() -> dict[str, str]:
    """Return the hashes of our code in an image."""
    return {
        "docker": sha256_of_folder(shipped("")),
        "device": sha256_of_json({name: sha256_of_file(path) for name, path in device_code().items()}),
    }


def _hashes_of(alternatives: tuple[Judged, ...]) -> dict[str, str]:
    """Return the hashes of the alternative models."""
    manifests = {f"{each.beside}_manifest": sha256_of_file(each.artifact.manifest) for each in alternatives}
    return manifests | {f"{each.beside}_predictions": each.answers.digest for each in alternatives}
