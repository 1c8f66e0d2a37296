"""Subject of `deploy predict` and `deploy validate`: an artifact's folder, or an image by its tag."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import Place
from pipeline.containers.container import running
from pipeline.containers.engine import connect
from pipeline.errors import CompileError, EngineMissing, PackageError
from pipeline.progress import Progress
from pipeline.validate.published import unproven_text
from targets.device.errors import SessionError
from targets.device.model.manifest import Manifest, ManifestError
from targets.device.model.session import Inference
from targets.device.model.variant import MAIN, choose
from targets.runtimes.simulation import open_here, place_of


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that gives answers, and where it runs."""

    session: Inference
    manifest: Manifest
    place: Place
    runtime: str
    instruction_set: str


@contextmanager
def open_subject(name: str, *, progress: Progress) -> Iterator[Subject]:
    """Open the artifact folder `name`, or start a container of the image `name`."""
    folder = Path(name)
    if folder.is_dir():
        with _artifact(folder, progress) as subject:
            yield subject
        return
    if folder.exists() or name.endswith("/"):
        raise CompileError(f"{name} is not an artifact folder. Give one that `deploy build` published, or an image.")
    try:
        engine = connect()
    except EngineMissing as error:
        raise EngineMissing(
            f"there is no folder {name}, and whether it is an image cannot be checked: {error}"
        ) from None
    try:
        if engine.id_of(name) is None:
            raise PackageError(f"{name} is neither a folder nor an image here. `deploy status` lists the artifacts.")
        with running(engine, name, progress=progress) as client:
            runtime, instructions = client.runs_on()
            yield Subject(
                session=client,
                manifest=client.manifest,
                place=Place.EMULATED if engine.emulates(name) else Place.IMAGE,
                runtime=runtime,
                instruction_set=instructions,
            )
    finally:
        engine.close()


@contextmanager
def _artifact(folder: Path, progress: Progress) -> Iterator[Subject]:
    """Open the artifact; if it has two models, the one that a device with this CPU would run."""
    try:
        chosen = choose(folder)
        manifest = chosen.manifest
        if chosen.variant != MAIN:
            progress.line(f"note: {chosen.reason}")
        if unproven := unproven_text(folder):
            progress.line(f"note: {unproven}")
        with open_here(chosen.folder, manifest) as session:
            yield Subject(
                session=session,
                manifest=manifest,
                place=place_of(manifest),
                runtime=session.runtime,
                instruction_set=session.instruction_set,
            )
    except (ManifestError, SessionError) as error:
        raise CompileError(str(error)) from None
