"""Run the work for an artifact on a target's devices, after this host has judged it."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.artifacts import AccuracyReport, Place
from pipeline.compile.engine_audit import PLAN, audit_engine, check_engine
from pipeline.containers.engine import connect
from pipeline.devices.delivered import Delivered
from pipeline.devices.delivery import Work
from pipeline.devices.fleet import deliver
from pipeline.devices.inventory import Device
from pipeline.errors import DataError
from pipeline.package.base_image import find_base
from pipeline.package.build_context import Environment, write_context
from pipeline.package.image_record import CONTEXT
from pipeline.package.labels import image_labels
from pipeline.package.stage import recipe_label, write_deferred
from pipeline.package.wheels import check_runtime, default_cache, fetch_wheels, find_lock
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.results import Judged, Validated
from pipeline.run import Run
from pipeline.untrusted import parse_json
from pipeline.validate.judge import judge_predictions, terms_of
from pipeline.validate.predictions import read_predictions
from targets.base_images import BaseImage, look_up_base
from targets.device.files import DOCUMENT, LAYERS
from targets.device.model.manifest import read_manifest
from targets.target import Target

Models = Mapping[tuple[str, str], tuple[Path, AccuracyReport]]
"""By hash and precision: before TensorRT 10.12 fp16 and fp32 are built from the same file."""


def dispatch(run: Run, devices: Sequence[Device], validated: Validated) -> list[Delivered]:
    """Build and prove the image on every device, in parallel; errors are in the results."""
    recipe, target, main = run.recipe, run.target, validated.main
    base = base_of(target, recipe.package.base_image, run.progress)
    models = _by_model(validated.models)
    describe = partial(image_labels, name=recipe.name, version=recipe.version, base=base.tag)
    own = recipe_label(recipe)
    with tempfile.TemporaryDirectory(prefix="edge-deploy-") as scratch:
        if target.gpu is not None:
            context = write_deferred(run, validated).path / CONTEXT
        else:
            folders = [each.artifact.folder for each in validated.models]
            run.workspace.check(validated.shard_folder.path, *folders)
            context = Path(scratch) / "context"
            safe = validated.alternatives[0].report if validated.alternatives else None
            labels = describe(read_manifest(main.artifact.folder), main.report, safe=safe) | own
            _write(context, validated.models, base, recipe, labels, run.progress)
        work = Work(
            target=target,
            tag=f"{recipe.name}:{recipe.version}-{target.name}",
            base=base.tag,
            context=context,
            shard=validated.shard,
            judge=partial(_judge, validated.shard, models),
            describe=lambda there, answers: describe(read_manifest(_model_of(models, answers)[0]), there) | own,
            package_undecided=run.packages_undecided,
        )
        return deliver(devices, work, published=validated.published, progress=run.progress)


def base_of(target: Target, base_image: str | None, progress: Progress) -> BaseImage:
    """Return the base image; if it is only known to the user, ask it for its Python on this host."""
    stated = look_up_base(target, base_image)
    if stated is not None:
        return stated
    with closing(connect()) as engine:
        return find_base(engine, target, base_image, progress=progress)


def _write(
    context: Path,
    models: Sequence[Judged],
    base: BaseImage,
    recipe: Recipe,
    labels: Mapping[str, str],
    progress: Progress,
) -> None:
    """Write a CPU target's build context, byte-identical to that of `package.package`."""
    main, *others = models
    lock = find_lock(base.platform, base.python, grpc=recipe.package.grpc)
    check_runtime(lock, read_manifest(main.artifact.folder))
    write_context(
        context,
        artifact=main.artifact.folder,
        report=main.report,
        environment=Environment(
            base=base,
            wheels=fetch_wheels(lock, cache=default_cache(), progress=progress),
            lock=lock.path,
            grpc=recipe.package.grpc,
        ),
        labels=labels,
        beside={each.beside: (each.artifact.folder, each.report) for each in others},
    )


def _by_model(models: Sequence[Judged]) -> Models:
    """Return the models that an image may run, with this host's reports."""
    manifests = [read_manifest(each.artifact.folder) for each in models]
    return {
        (manifest.model_sha256, manifest.precision): (each.artifact.folder, each.report)
        for manifest, each in zip(manifests, models, strict=True)
    }


def _model_of(models: Models, answers: Path) -> tuple[Path, AccuracyReport]:
    """Return the model that a device ran, according to its answers and the document beside them."""
    model = read_predictions(answers).artifact_sha256
    document = answers.parent / DOCUMENT
    try:
        precision = str(parse_json(document.read_text(encoding="utf-8"))["precision"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the device's {DOCUMENT} does not say which precision it ran: {error!r}.") from None
    if (model, precision) not in models:
        raise DataError(
            f"the device answered with the model {model[:16]}... in {precision}, which is not among those that were "
            "sent."
        )
    return models[model, precision]


def _layers(file: Path) -> Any:
    try:
        return parse_json(file.read_bytes())
    except ValueError as error:
        raise DataError(f"the device's {LAYERS} cannot be read: {error}.") from None


def _judge(shard: Path, models: Models, answers: Path) -> AccuracyReport:
    """Return this host's own report on a device's answers."""
    folder, found = _model_of(models, answers)
    layers = answers.parent / LAYERS
    if layers.is_file() and (folder / PLAN).is_file():
        check_engine(audit_engine(folder, _layers(layers)), "the device")
    return judge_predictions(
        shard,
        answers,
        artifact=folder,
        place=Place.DEVICE,
        terms=terms_of(found),
    )
