"""Build a container image from artifact and report; it must give the artifact's answers, or it is removed."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.artifacts import AccuracyReport, Artifact, Image, Judge, Place, Verdict
from pipeline.containers.container import MODEL_FOLDER, remove_orphans, running
from pipeline.containers.engine import Engine, connect
from pipeline.errors import EngineMissing, PackageError
from pipeline.package.base_image import base_without_engine, find_base
from pipeline.package.build_context import Environment, build_command, write_context
from pipeline.package.image_record import write_image
from pipeline.package.labels import PREFIX, image_labels
from pipeline.package.settings import ImageSettings
from pipeline.package.wheels import Lock, check_runtime, default_cache, fetch_wheels, find_lock
from pipeline.progress import Progress
from pipeline.results import Judged
from pipeline.validate.measure import measure_session
from pipeline.validate.predictions import Predictions, read_predictions
from pipeline.workplace import Workplace
from targets.device.files import PREDICTIONS
from targets.device.model.manifest import Manifest, ManifestError, read_manifest
from targets.device.model.variant import FOLDER

PACKAGES_STAGE = "edge-deploy-packages"
"""Tag under which the engine keeps the installed Python packages for the next build."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Reference for the image's answers: the gate's images and the artifact's answers on this host."""

    shard: Path
    predictions: Path


def package(
    main: Judged,
    settings: ImageSettings,
    *,
    shard: Path,
    variant: Judged | None = None,
    context: Path,
    judge: Judge | None = None,
    at: Workplace,
) -> Image:
    """Build `name:version-target` and run the validation set through it; write `image.json`, `predictions.npz`.

    The build context is written to the folder `context`; without a Docker engine it stays there and `EngineMissing`
    says how to build it elsewhere. `variant` is added to the model's layer. Raises `PackageError` and leaves no image
    if it cannot be built or its answers differ from those of artifact and variant. On a host of another platform than
    the target's the answers may differ: they must pass their own gate, `judge`.
    """
    artifact, report, target = main.artifact, main.report, settings.target
    proof = Proof(shard=shard, predictions=main.predictions)
    manifest = _proven_manifest(artifact, report)
    _check_belongs(proof, report)
    beside = None if variant is None else _beside(variant, proof, artifact)
    assert artifact.place is Place.HOST or judge is not None, "another platform's image needs a judge"
    engine, missing = _engine()
    try:
        if engine is None:
            base = base_without_engine(target, settings.base_image, missing)
        else:
            base = find_base(engine, target, settings.base_image, progress=at.progress)
        lock = find_lock(base.platform, base.python, grpc=settings.grpc)
        check_runtime(lock, manifest)
        wheels = fetch_wheels(lock, cache=default_cache(), progress=at.progress)
        describe = partial(image_labels, manifest, name=settings.name, version=settings.version, base=base.tag)
        write_context(
            context,
            artifact=artifact.folder,
            report=report,  # The host's, wherever the image is judged: it must be complete before it can be asked.
            environment=Environment(base=base, wheels=wheels, lock=lock.path, grpc=settings.grpc),
            labels=describe(report, safe=None if variant is None else variant.report) | dict(settings.labels),
            beside={} if variant is None else {FOLDER: (variant.artifact.folder, variant.report)},
        )
        if engine is None:
            raise EngineMissing(f"{missing} {_elsewhere(context, settings.tag)}")
        built = _build(engine, context, settings.tag, lock, at.progress)
        gate = Gate(
            engine=engine, manifest=manifest, proof=proof, beside=beside, progress=at.progress, folder=at.folder
        )
        image = gate.tag_if_proven(
            built, settings.tag, base.platform, None if artifact.place is Place.HOST else judge, describe
        )
    finally:
        if engine is not None:
            engine.close()
    shutil.rmtree(context)
    return image


def prove(
    engine: Engine,
    image: str,
    manifest: Manifest,
    proof: Proof,
    *,
    progress: Progress,
    folder: Path,
    model_folder: str = MODEL_FOLDER,
) -> None:
    """Run the shard through a container; raise `PackageError` unless every answer equals the one on this host."""
    ask(engine, image, manifest, proof.shard, progress=progress, folder=folder, model_folder=model_folder)
    _check_same(read_predictions(proof.predictions), read_predictions(folder / PREDICTIONS), manifest.tolerance)


def ask(
    engine: Engine,
    image: str,
    manifest: Manifest,
    shard: Path,
    *,
    progress: Progress,
    folder: Path,
    model_folder: str = MODEL_FOLDER,
) -> None:
    """Run the shard through a container, which must contain the packaged artifact; write `predictions.npz`."""
    with running(engine, image, progress=progress, model_folder=model_folder) as client:
        if client.manifest != manifest:
            raise PackageError(f"the image {image} contains another artifact than the one that was packaged.")
        runtime, instruction_set = client.runs_on()
        measure_session(
            client,
            manifest,
            shard,
            folder,
            instruction_set=instruction_set,
            runtime=runtime,
            progress=progress,
        )


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The check between an image's build and its tag; an image that does not pass is removed."""

    engine: Engine
    manifest: Manifest
    proof: Proof
    beside: tuple[Manifest, Proof] | None = None
    """The same for the saturation-safe variant, if there is one."""
    progress: Progress
    folder: Path

    def tag_if_proven(
        self,
        built: str,
        tag: str,
        platform: str,
        judge: Judge | None,
        describe: Callable[[AccuracyReport], dict[str, str]],
    ) -> Image:
        """Tag the image if its answers equal the host's or, if they may differ, if `judge` passes them."""
        if judge is None:
            return self.tag_if_same(built, tag, platform)
        return self.tag_if_passed(built, tag, platform, judge, describe)

    def tag_if_same(self, built: str, tag: str, platform: str) -> Image:
        """Tag the image if every answer equals the one on this host."""
        with self._removed_unless_proven(built, tag):
            prove(self.engine, built, self.manifest, self.proof, progress=self.progress, folder=self.folder)
            if self.beside is not None:
                # Requested by name, as this CPU might not choose it.
                manifest, proof = self.beside
                there, inside = self.folder / FOLDER, f"{MODEL_FOLDER}/{FOLDER}"
                prove(self.engine, built, manifest, proof, progress=self.progress, folder=there, model_folder=inside)
            return self._tag(built, tag, platform)

    def tag_if_passed(
        self, built: str, tag: str, platform: str, judge: Judge, describe: Callable[[AccuracyReport], dict[str, str]]
    ) -> Image:
        """Tag the image if its answers pass their own gate; its figures replace the host's in the labels."""
        place = _place(self.engine, built)
        with self._removed_unless_proven(built, tag):
            self.progress.line(f"running the gate's images through the image: {place}, which may take a while")
            ask(self.engine, built, self.manifest, self.proof.shard, progress=self.progress, folder=self.folder)
            report = judge(self.folder / PREDICTIONS, place)
            with tempfile.TemporaryDirectory() as scratch:
                (Path(scratch) / "Dockerfile").write_text(f"FROM {built}\n")
                labelled = self.engine.build(
                    Path(scratch), labels=describe(report), platform=platform, progress=self.progress
                )
            return self._tag(labelled, tag, platform)

    def _tag(self, image: str, tag: str, platform: str) -> Image:
        size, place = self.engine.bytes_of(image), _place(self.engine, image)
        made = Image(tag=tag, id=image, bytes=size, platform=platform, place=place)
        write_image(self.folder, made)
        self.engine.tag(image, tag)
        return made

    @contextmanager
    def _removed_unless_proven(self, built: str, tag: str) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if isinstance(error, PackageError) and self.engine.layers_of(tag) == self.engine.layers_of(built):
                # An earlier build from the same files made and tagged this same image; it has failed now.
                self.engine.untag(tag)
            self.engine.remove(built)
            raise


def _place(engine: Engine, image: str) -> Place:
    return Place.EMULATED if engine.emulates(image) else Place.IMAGE


def _build(engine: Engine, context: Path, tag: str, lock: Lock, progress: Progress) -> str:
    for left_over in remove_orphans(engine):
        progress.detail(f"removed the container {left_over}, left by a killed build")
    progress.line(f"building the image {tag}")
    place = Place.IMAGE if engine.platform == lock.platform else Place.EMULATED
    return engine.build(
        context,
        # The label claims the place before the proof, but an image without proof is removed.
        labels={PREFIX + "place": place.value},
        platform=lock.platform,
        progress=progress,
        stage_tag=f"{PACKAGES_STAGE}:{lock.name}",
    )


def _check_same(here: Predictions, there: Predictions, tolerance: float) -> None:
    """Raise unless the report on `here` is also valid for `there`: it depends only on classes.

    `tolerance` is the manifest's: a share of the logits' range, for CPUs of the same instruction set. On others
    float sums are rounded differently (see `targets.device.model.golden`), so logits may differ, but no class may.
    """
    differing = int((here.logits.argmax(axis=1) != there.logits.argmax(axis=1)).sum())
    difference = float(np.abs(here.logits - there.logits).max())
    is_same_kind = here.instruction_set == there.instruction_set
    limit = tolerance * float(np.ptp(here.logits)) if is_same_kind else float("inf")
    if differing or not difference <= limit:
        allowed = f"{limit:.3g} allowed" if is_same_kind else f"any allowed, as this host has {here.instruction_set}"
        raise PackageError(
            f"the image's answers differ from the artifact's on this host: {differing} of {len(here.logits)} classes "
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
            f"the report is about the model {report.artifact_sha256[:16]}..., but the artifact {artifact.folder} "
            f"contains {manifest.model_sha256[:16]}.... Validate this artifact first."
        )
    if report.verdict is Verdict.FAIL:
        raise PackageError(f"the artifact {artifact.folder} failed its gate, so no image is built from it.")
    return manifest


def _elsewhere(context: Path, tag: str) -> str:
    return (
        f"Everything up to the image is done, and its build context is in {context}. "
        f"On a machine with an engine run: {build_command(context, tag)}"
    )


def _beside(safe: Judged, proof: Proof, artifact: Artifact) -> tuple[Manifest, Proof]:
    assert artifact.place is Place.HOST, "a host of another platform cannot prove a variant"
    manifest = _proven_manifest(safe.artifact, safe.report)
    own = Proof(shard=proof.shard, predictions=safe.predictions)
    _check_belongs(own, safe.report)
    return manifest, own


def _check_belongs(proof: Proof, report: AccuracyReport) -> None:
    found = read_predictions(proof.predictions)
    if (found.artifact_sha256, found.shard_sha256) != (report.artifact_sha256, report.shard_sha256):
        raise PackageError(
            f"the predictions {proof.predictions} are from the model {found.artifact_sha256[:16]}... on the shard "
            f"{found.shard_sha256[:16]}..., the report is for {report.artifact_sha256[:16]}... on "
            f"{report.shard_sha256[:16]}.... Validate the artifact again."
        )


def _engine() -> tuple[Engine | None, str]:
    """Return the engine, or why there is none: work that needs none is still done."""
    try:
        return connect(), ""
    except EngineMissing as error:
        return None, str(error)
