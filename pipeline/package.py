"""Artifact and report become a container image, which must answer just as the artifact did, or there is none."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import __version__
from pipeline.artifacts import AccuracyReport, Artifact, Image, Place, Verdict
from pipeline.base_image import BaseImage, find_base, stated_base
from pipeline.container import running, sweep
from pipeline.context import build_command, write_context
from pipeline.engine import Engine, connect
from pipeline.errors import EngineMissing, PackageError
from pipeline.image import write_image
from pipeline.measure import measure_session
from pipeline.predictions import PREDICTIONS, Predictions, read_predictions
from pipeline.progress import Progress
from pipeline.wheels import Lock, default_cache, fetch_wheels, find_lock
from targets.base import Target
from targets.device.manifest import Manifest, ManifestError, read_manifest

PREFIX = "dev.edge-deploy."
OPEN_CONTAINER = "org.opencontainers.image."


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What the image's answers are compared with: the gate's images and the artifact's answers on this host."""

    shard: Path
    predictions: Path


def package(
    artifact: Artifact,
    report: AccuracyReport,
    *,
    proof: Proof,
    name: str,
    version: str,
    target: Target,
    base_image: str | None,
    labels: Mapping[str, str],
    context: Path,
    wheel_cache: Path | None = None,
    progress: Progress,
    folder: Path,
) -> Image:
    """Build `name:version-target` and run the validation set through it; write `image.json`, `predictions.npz`.

    The build context is written to the folder `context`; where no engine answers it stays there and `EngineMissing`
    says how to build it elsewhere. `labels` are added to ours as they are. Raises `PackageError` and leaves no image
    where it cannot be built or does not answer as the artifact did.
    """
    manifest = _proven_manifest(artifact, report)
    _check_belongs(proof, report)
    tag = f"{name}:{version}-{target.name}"
    engine, missing = _engine()
    try:
        if engine is None:
            base = _base_without_engine(target, base_image, missing)
        else:
            base = find_base(engine, target, base_image, progress=progress)
        lock = find_lock(base.platform, base.python)
        _check_runtime(lock, manifest)
        write_context(
            context,
            artifact=artifact.folder,
            base=base,
            wheels=fetch_wheels(lock, cache=wheel_cache or default_cache(), progress=progress),
            lock=lock.path,
            labels=image_labels(manifest, report, name=name, version=version, base=base.tag) | dict(labels),
        )
        if engine is None:
            raise EngineMissing(
                f"{missing} Everything up to the image is done, and its build context is in {context}. "
                f"Where an engine answers: {build_command(context, tag)}"
            )
        built = _build(engine, context, tag, base.platform, progress)
        image = _tagged_if_proven(engine, built, tag, manifest, proof, base.platform, progress, folder)
    finally:
        if engine is not None:
            engine.close()
    shutil.rmtree(context)
    return image


def image_labels(manifest: Manifest, report: AccuracyReport, *, name: str, version: str, base: str) -> dict[str, str]:
    """What can be asked of the image without starting it."""
    return {
        OPEN_CONTAINER + "title": name,
        OPEN_CONTAINER + "version": version,
        OPEN_CONTAINER + "base.name": base,
        PREFIX + "tool": __version__,
        PREFIX + "target": manifest.target,
        PREFIX + "runtime": f"{manifest.runtime} {manifest.runtime_version}",
        PREFIX + "precision": manifest.precision,
        PREFIX + "model.sha256": manifest.model_sha256,
        PREFIX + "shard.sha256": report.shard_sha256,
        PREFIX + "verdict": report.verdict.value,
        PREFIX + "place": report.place.value,
        PREFIX + "drop-points": f"{report.drop_points:.3f}",
        PREFIX + "images": str(report.images),
    }


def prove(engine: Engine, image: str, manifest: Manifest, proof: Proof, *, progress: Progress, folder: Path) -> None:
    """Run the shard through a container; raise `PackageError` unless every answer is the one given on this host."""
    with running(engine, image, progress=progress) as client:
        if client.manifest != manifest:
            raise PackageError(f"the image {image} holds another artifact than the one that was packaged.")
        runtime, instruction_set = client.runs_on()
        measure_session(
            client,
            manifest,
            proof.shard,
            folder,
            instruction_set=instruction_set,
            runtime=runtime,
            progress=progress,
        )
    _check_same(read_predictions(proof.predictions), read_predictions(folder / PREDICTIONS), manifest.tolerance)


def _build(engine: Engine, context: Path, tag: str, platform: str, progress: Progress) -> str:
    for left_over in sweep(engine):
        progress.detail(f"removed the container {left_over} of a build that was killed")
    progress.line(f"building the image {tag}")
    # The place is claimed before it is proven, but an image that is not proven is removed.
    return engine.build(context, labels={PREFIX + "place": Place.IMAGE.value}, platform=platform, progress=progress)


def _tagged_if_proven(
    engine: Engine,
    built: str,
    tag: str,
    manifest: Manifest,
    proof: Proof,
    platform: str,
    progress: Progress,
    folder: Path,
) -> Image:
    try:
        prove(engine, built, manifest, proof, progress=progress, folder=folder)
        image = Image(tag=tag, id=built, bytes=engine.bytes_of(built), platform=platform)
        write_image(folder, image)
        engine.tag(built, tag)
    except BaseException as error:
        if isinstance(error, PackageError) and engine.id_of(tag) == built:
            # An earlier build from the same files made and tagged this very image; it is refuted now.
            engine.untag(tag)
        engine.remove(built)
        raise
    return image


def _check_same(here: Predictions, there: Predictions, tolerance: float) -> None:
    """Raise unless the report on `here` is true of `there`, too: so far as it goes, it speaks of classes alone.

    `tolerance` is the manifest's: a share of the logits' range, for CPUs of the same instruction set. On others
    float sums are rounded differently (see `targets.device.golden`), so that logits may move; no class may.
    """
    differing = int((here.logits.argmax(axis=1) != there.logits.argmax(axis=1)).sum())
    difference = float(np.abs(here.logits - there.logits).max())
    is_same_kind = here.instruction_set == there.instruction_set
    limit = tolerance * float(np.ptp(here.logits)) if is_same_kind else float("inf")
    if differing or not difference <= limit:
        allowed = f"{limit:.3g} allowed" if is_same_kind else f"any allowed, as this host has {here.instruction_set}"
        raise PackageError(
            f"the image does not answer as the artifact did on this host: {differing} of {len(here.logits)} classes "
            f"differ, logits by at most {difference:.3g} ({allowed}). The image, which runs {there.runtime} on "
            f"{there.instruction_set}, was removed; artifact and report are kept."
        )


def _proven_manifest(artifact: Artifact, report: AccuracyReport) -> Manifest:
    try:
        manifest = read_manifest(artifact.folder)
        manifest.model_path(artifact.folder)
    except ManifestError as error:
        raise PackageError(f"the artifact cannot be packaged: {error}") from None
    if report.artifact_sha256 != manifest.model_sha256:
        raise PackageError(
            f"the report is about the model {report.artifact_sha256[:16]}..., the artifact {artifact.folder} holds "
            f"{manifest.model_sha256[:16]}.... Validate this artifact first."
        )
    if report.verdict is Verdict.FAIL:
        raise PackageError(f"the artifact {artifact.folder} failed its gate: no image is made of it.")
    return manifest


def _check_belongs(proof: Proof, report: AccuracyReport) -> None:
    found = read_predictions(proof.predictions)
    if (found.artifact_sha256, found.shard_sha256) != (report.artifact_sha256, report.shard_sha256):
        raise PackageError(
            f"the predictions {proof.predictions} are of the model {found.artifact_sha256[:16]}... on the shard "
            f"{found.shard_sha256[:16]}..., the report of {report.artifact_sha256[:16]}... on "
            f"{report.shard_sha256[:16]}.... Validate the artifact again."
        )


def _check_runtime(lock: Lock, manifest: Manifest) -> None:
    """The image's runtime may be newer than the one of the proof, never older: it would refuse the artifact."""
    locked = lock.pins[manifest.runtime].version
    if _release(locked) < _release(manifest.runtime_version):
        raise PackageError(
            f"the artifact was proven with {manifest.runtime} {manifest.runtime_version}, the image would run "
            f"{locked}. Install {manifest.runtime}=={locked} here and build again."
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _engine() -> tuple[Engine | None, str]:
    """The engine, or why there is none: what needs none is done all the same."""
    try:
        return connect(), ""
    except EngineMissing as error:
        return None, str(error)


def _base_without_engine(target: Target, base_image: str | None, missing: str) -> BaseImage:
    base = stated_base(target, base_image)
    if base is None:
        raise EngineMissing(
            f"{missing} Without one the Python in {base_image} cannot be known, so no build context was written; "
            "leave out --base-image to get one."
        )
    return base
