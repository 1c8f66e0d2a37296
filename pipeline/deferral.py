"""A TensorRT target's last stage in the workspace: its image's context, and the image where it can be built here."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Artifact
from pipeline.context import build_command
from pipeline.delivery import RECIPE_LABEL, Delivery, code_hashes, inputs_of
from pipeline.errors import EngineMissing, PackageError
from pipeline.hashing import Json, sha256_of_file, sha256_of_json
from pipeline.image import is_present, read_image
from pipeline.pending import CONTEXT, WORDS, Order, Pending, build_pending, show_context, write_pending
from pipeline.variant import Variant
from pipeline.workspace import Folder, child
from targets.device.files import SHARD


def defer(
    to: Delivery, artifact: Artifact, report: AccuracyReport, shard: Folder, others: Sequence[Variant]
) -> tuple[Pending, tuple[Folder, ...]]:
    """The context, the image where its base can be had here, and the folders of both.

    Where the base cannot be had, `words` says why, and nothing of that is remembered; one that was asked for by name
    raises.
    """
    order = _order(to)
    written = _written(to, order, artifact, report, shard, others)
    context = written.path / CONTEXT
    if not to.workspace.only_look:
        # Whoever builds it elsewhere builds what is in it.
        to.workspace.check(written.path)
    place = child(to.workspace.root / "context", to.published_as)
    shown = place if to.workspace.only_look else show_context(context, place)
    try:
        built = _built(to, order, written)
    except (EngineMissing, PackageError) as error:
        if order.base_image is not None and isinstance(error, PackageError):
            raise
        words = f"no image here: {error} Where its base is: {build_command(shown, order.tag)}"
        return Pending(context=shown, image=None, words=words), (written,)
    words = (built.path / WORDS).read_text()
    return Pending(context=shown, image=read_image(built.path), words=words), (written, built)


def _order(to: Delivery) -> Order:
    recipe = to.recipe
    return Order(
        name=recipe.name,
        version=recipe.version,
        target=to.target,
        base_image=recipe.package.base_image,
        grpc=recipe.package.grpc,
        undecided=recipe.validate_.undecided,
        shard_images=recipe.package.shard_images,
        fallback=recipe.package.fallback,
    )


def _written(
    to: Delivery,
    order: Order,
    artifact: Artifact,
    report: AccuracyReport,
    shard: Folder,
    others: Sequence[Variant],
) -> Folder:
    inputs = {
        "manifest": sha256_of_file(artifact.manifest),
        "shard": shard.digest,
        **inputs_of(others),
        **code_hashes(),
    }
    options: dict[str, Json] = {
        **vars(order),
        "target": to.target.name,
        "max_drop": report.max_drop_points,
        "confidence": report.confidence,
        "looks": report.gate_looks,
    }
    labels = {RECIPE_LABEL: sha256_of_json(to.recipe.model_dump(mode="json", by_alias=True))}

    def write(folder: Path) -> None:
        to.workspace.check(artifact.folder, shard.path, *(each.artifact.folder for each in others))
        write_pending(
            artifact,
            report,
            order=order,
            shard=shard.path / SHARD,
            others=others,
            labels=labels,
            progress=to.progress,
            folder=folder,
        )

    return to.workspace.obtain(
        to.workspace.key("package", module="pipeline.context", inputs=inputs, options=options), write
    )


def _built(to: Delivery, order: Order, written: Folder) -> Folder:
    key = to.workspace.key("package", module="pipeline.pending", inputs={"context": written.digest}, options={})
    found = to.workspace.find(key)
    if found is not None and not is_present(read_image(found.path)):
        to.workspace.forget(key)

    def build(folder: Path) -> None:
        build_pending(written.path / CONTEXT, order, progress=to.progress, folder=folder)

    return to.workspace.obtain(key, build)


def context_of(
    to: Delivery, artifact: Artifact, report: AccuracyReport, shard: Folder, others: Sequence[Variant]
) -> Path:
    """The context alone, to be built on a device."""
    written = _written(to, _order(to), artifact, report, shard, others)
    to.workspace.check(written.path)
    return written.path / CONTEXT
