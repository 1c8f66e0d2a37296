"""Engines of this machine, found in the cache or built into it; never one that was built for another place."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional

from targets.device.errors import BuildError, SessionError
from targets.device.model.manifest import Manifest
from targets.device.nvidia.cudart import Cuda, CudaError
from targets.device.nvidia.machine import Machine, MachineError, here
from targets.device.progress import Progress
from targets.device.settings import engine_cache
from targets.device.tensorrt import passport as passports
from targets.device.tensorrt.build_process import Assignment, run_builder
from targets.device.tensorrt.cache import Cache, explained
from targets.device.tensorrt.passport import PassportError

if TYPE_CHECKING:
    from targets.device.tensorrt.session import TensorRtSession

LOG = logging.getLogger(__name__)
KEY_LETTERS = 32
MAX_BATCH = 32


class Engines:
    """The cache as this machine sees it; raises `MachineError` or `CudaError` where there is no TensorRT or no GPU."""

    def __init__(self, cache: Optional[Path] = None, progress: Optional[Progress] = None) -> None:
        """`cache` is ENGINE_CACHE unless it is given."""
        self.machine = _machine()
        self.cache = Cache(engine_cache() if cache is None else cache)
        self.progress = Progress() if progress is None else progress
        self._told = ""

    def entry(self, manifest: Manifest) -> Path:
        """The folder of a model's engine, whether it is there or not."""
        return self.cache.folder / key_of(manifest, self.machine)

    def open_or_build(self, folder: Path, manifest: Manifest) -> TensorRtSession:
        """A session of the engine of an artifact folder; raises `ModelError` or `ManifestError`."""
        session = self.opened(folder, manifest)
        if session is not None:
            return session
        self.cache.prepare(model_bytes(folder, manifest))
        with self.cache.locked(waiting=self.wait):
            return self.opened_or_built_alone(folder, manifest)

    def opened_or_built_alone(self, folder: Path, manifest: Manifest) -> TensorRtSession:
        """The same for whoever holds the cache's lock; another process may have built it while this one waited."""
        return self.opened(folder, manifest) or self._build(folder, manifest)

    def opened(self, folder: Path, manifest: Manifest) -> Optional[TensorRtSession]:
        """A session of the engine in the cache; None where there is none that fits, with the reason in the log."""
        # Imported late, as it imports TensorRT.
        from targets.device.tensorrt.session import TensorRtSession, UnreadableEngine

        manifest.model_path(folder)
        entry = self.entry(manifest)
        if not entry.is_dir():
            return None
        try:
            with explained(self.cache.folder):
                passport = passports.read(entry)
                _check_asked(passport, manifest)
                return TensorRtSession(entry / passports.ENGINE, here=self.machine)
        except (PassportError, UnreadableEngine) as error:
            # It is looked at again under the lock.
            if str(error) != self._told:
                self._told = str(error)
                LOG.warning("the engine is built anew", extra={"fields": {"engine": str(entry), "reason": self._told}})
            return None

    def wait(self) -> None:
        """Said while another process has the cache; raises `Stopped`."""
        self.progress.note(
            f"another process builds or proves an engine in {self.cache.folder}; this one waits for it, as builds "
            "beside each other spoil each other's timing"
        )

    def _build(self, folder: Path, manifest: Manifest) -> TensorRtSession:
        """Seconds to many minutes."""
        source, entry = manifest.model_path(folder), self.entry(manifest)
        _check_generation(manifest)
        self.cache.sweep()
        with self.cache.beside(entry) as made:
            assignment = Assignment(
                onnx=str(source),
                folder=str(made),
                timing_caches=str(self.cache.folder),
                precision=manifest.precision,
                max_batch=max_batch_of(manifest),
                dla_core=dla_core_of(manifest),
                tool=f"first start of {manifest.name} {manifest.version}",
            )
            run_builder(assignment, self.machine, self.progress)
        session = self.opened(folder, manifest)
        if session is None:
            raise BuildError(
                f"the engine {entry} was built and cannot be opened; the log says why. See that the disk is "
                "sound, and start again."
            )
        return session


def key_of(manifest: Manifest, machine: Machine) -> str:
    """Of everything that an engine depends on: the model's file, what was asked for, and the machine.

    Its memory is left out, as it decides how a build goes, not where its engine runs.
    """
    facts: Dict[str, Any] = asdict(machine)
    del facts["memory_bytes"]
    facts.update(
        onnx_sha256=manifest.model_sha256,
        precision=manifest.precision,
        max_batch=max_batch_of(manifest),
        dla_core=dla_core_of(manifest),
    )
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LETTERS]


def model_bytes(folder: Path, manifest: Manifest) -> int:
    return manifest.model_path(folder).stat().st_size


def max_batch_of(manifest: Manifest) -> int:
    """Images of one run of the engine; the session cuts more into parts."""
    value = manifest.session_options.get("max_batch", MAX_BATCH)
    if not isinstance(value, int) or value < 1:
        raise SessionError(f"the session option max_batch is {value!r}; a whole number from 1 is expected.")
    return value


def dla_core_of(manifest: Manifest) -> Optional[int]:
    value = manifest.session_options.get("dla_core")
    if value is not None and not isinstance(value, int):
        raise SessionError(f"the session option dla_core is {value!r}; a whole number is expected.")
    return value


def _machine() -> Machine:
    try:
        return here()
    except MachineError as error:
        # One start should tell all that is missing.
        try:
            Cuda().name()
        except CudaError as other:
            raise MachineError(f"{error} Besides, {other}") from None
        raise


def _check_asked(passport: passports.Passport, manifest: Manifest) -> None:
    passports.check_asked(passport, precision=manifest.precision, dla_core=dla_core_of(manifest))
    if passport.onnx_sha256 != manifest.model_sha256:
        raise PassportError(
            f"onnx_sha256 is {manifest.model_sha256[:16]}… in the manifest, but the engine was built from "
            f"{passport.onnx_sha256[:16]}…. Build it again."
        )


def _check_generation(manifest: Manifest) -> None:
    """The file is written for a range of TensorRT's versions (`targets.dialects.tensorrt_source`)."""
    import tensorrt

    from targets.device.tensorrt.build import generation_of

    found, wanted = str(tensorrt.__version__), manifest.runtime_version
    if type(generation_of(found)) is not type(generation_of(wanted)):
        raise BuildError(
            f"TensorRT {found} is here, but the model's file was written for {wanted}, which reads another dialect. "
            f"Use the base image of the target {manifest.target}, or build the image for the target that has {found}."
        )
