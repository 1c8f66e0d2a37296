"""Package for a TensorRT target: the build context of an image whose engine is built elsewhere.

The context is complete without an engine and without its base image of several gigabytes; the image is built
where both are available. Here it can only be checked that it starts and reports what it waits for.
"""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Artifact, Image, Place
from pipeline.containers.container import EMULATION, READY_SECONDS, NeverReady, launched, wait_until_ready
from pipeline.containers.engine import Engine, connect
from pipeline.errors import EngineMissing, PackageError
from pipeline.package.base_image import find_base, obtain_base
from pipeline.package.build_context import Environment, FirstStart, write_context
from pipeline.package.image_record import CONTEXT, WORDS, write_image
from pipeline.package.labels import PREFIX, image_labels
from pipeline.package.settings import DeferredSettings
from pipeline.package.wheels import default_cache, fetch_wheels, find_lock
from pipeline.progress import Progress
from pipeline.results import Judged
from pipeline.validate.shard import pack_some
from targets.base_images import BaseImage, look_up_base
from targets.device.model.manifest import read_manifest


def write_pending(
    artifact: Artifact,
    report: AccuracyReport,
    *,
    settings: DeferredSettings,
    shard: Path,
    others: Sequence[Judged],
    labels: Mapping[str, str],
    progress: Progress,
    folder: Path,
) -> None:
    """Write the build context to `folder`/context; `report` is the simulated gate's, `others` are packed too.

    Needs no Docker engine, unless the base image is only known to the user. Raises `PackageError` and `EngineMissing`.
    """
    base = look_up_base(settings.target, settings.base_image) or _ask_for_base(settings, progress)
    lock = find_lock(base.platform, base.python, runtime="tensorrt", grpc=settings.grpc)
    described = image_labels(
        read_manifest(artifact.folder), report, name=settings.name, version=settings.version, base=base.tag
    )
    with tempfile.TemporaryDirectory(prefix="edge-deploy-") as scratch:
        travels = shard if settings.shard_images is None else pack_some(shard, settings.shard_images, Path(scratch))
        write_context(
            folder / CONTEXT,
            artifact=artifact.folder,
            report=report,
            environment=Environment(
                base=base,
                wheels=fetch_wheels(lock, cache=default_cache(), progress=progress),
                lock=lock.path,
                grpc=settings.grpc,
            ),
            labels=described | {PREFIX + "proof": "pending"} | dict(labels),
            beside={each.beside: (each.artifact.folder, each.report) for each in others},
            first_start=FirstStart(
                shard=travels,
                max_drop=report.max_drop_points,
                confidence=report.confidence,
                undecided=settings.undecided,
                fallback=settings.fallback,
            ),
        )


def build_pending(context: Path, settings: DeferredSettings, *, progress: Progress, folder: Path) -> None:
    """Build the image of a context, check that it starts, tag it; write `image.json` and the server's message.

    Raises `EngineMissing` or `PackageError` if that is not possible here, and then leaves no image.
    """
    with closing(connect()) as engine:
        _, platform = obtain_base(engine, settings.target, settings.base_image, progress=progress)
        progress.line(f"building the image {settings.tag}")
        labels = {PREFIX + "place": Place.SIMULATED.value}
        built = engine.build(context, labels=labels, platform=platform, progress=progress)
        try:
            words = _words(engine, built, platform)
            image = Image(
                tag=settings.tag,
                id=built,
                bytes=engine.bytes_of(built),
                platform=platform,
                place=Place.SIMULATED,
            )
            write_image(folder, image)
            (folder / WORDS).write_text(words)
            engine.tag(built, settings.tag)
        except BaseException:
            engine.remove(built)
            raise


def _ask_for_base(settings: DeferredSettings, progress: Progress) -> BaseImage:
    try:
        engine = connect()
    except EngineMissing as error:
        raise EngineMissing(
            f"{error} Without one the Python in {settings.base_image} is unknown, so no build context was "
            "written; leave out --base-image to get one."
        ) from None
    with closing(engine):
        return find_base(engine, settings.target, settings.base_image, progress=progress)


def _words(engine: Engine, image: str, platform: str) -> str:
    """Return the server's message here, if it can be started; raise `PackageError` if it ends.

    No GPU is visible to it, even if the Docker engine's default is different: this must not build an engine.
    """
    seconds = READY_SECONDS * (EMULATION if engine.emulates(image) else 1.0)
    try:
        with launched(engine, image, environment={"NVIDIA_VISIBLE_DEVICES": "void"}) as server:
            wait_until_ready(server.client, server.container, image, seconds=seconds)
        return "the image starts, and was ready here; its engine was deleted with the container"
    except NeverReady as error:
        return f"the image starts, and reports what is missing here: {error.reason}"
    except PackageError as error:
        if "exec format error" in str(error):
            return f"not started here: this machine cannot run programs for {platform}"
        raise
