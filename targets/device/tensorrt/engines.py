"""Engines for this machine, opened from the cache or built into it; never one that was built for another machine."""

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
from targets.device.tensorrt.cache import Cache, cache_errors
from targets.device.tensorrt.passport import PassportError

if TYPE_CHECKING:
    from targets.device.tensorrt.session import TensorRtSession

LOG = logging.getLogger(__name__)
KEY_LETTERS = 32
MAX_BATCH = 32


class Engines:
    """This machine's engines in the cache; raises `MachineError` without TensorRT, or `CudaError` without a GPU."""

    def __init__(self, cache: Optional[Path] = None, progress: Optional[Progress] = None) -> None:
        """Use `cache`, by default ENGINE_CACHE."""
        self.machine = _machine()
        self.cache = Cache(engine_cache() if cache is None else cache)
        self.progress = Progress() if progress is None else progress
        self._logged_reason = ""

    def entry(self, manifest: Manifest) -> Path:
        """Return the folder of a model's engine, which may not exist yet."""
        return self.cache.folder / key_of(manifest, self.machine)

    def open_or_build(self, folder: Path, manifest: Manifest) -> TensorRtSession:
        """Open the engine of an artifact folder, or build it first; raise `ModelError` or `ManifestError`."""
        session = self.open_cached(folder, manifest)
        if session is not None:
            return session
        self.cache.prepare(model_bytes(folder, manifest))
        with self.cache.locked(waiting=self.wait):
            return self.open_or_build_locked(folder, manifest)

    def open_or_build_locked(self, folder: Path, manifest: Manifest) -> TensorRtSession:
        """Do the same while holding the cache's lock; another process may have built the engine in the meantime."""
        return self.open_cached(folder, manifest) or self._build(folder, manifest)

    def open_cached(self, folder: Path, manifest: Manifest) -> Optional[TensorRtSession]:
        """Open the engine in the cache; None, with the reason in the log, if there is none that fits."""
        # Imported late, because it imports TensorRT.
        from targets.device.tensorrt.session import TensorRtSession, UnreadableEngine

        manifest.model_path(folder)
        entry = self.entry(manifest)
        if not entry.is_dir():
            return None
        try:
            with cache_errors(self.cache.folder):
                passport = passports.read(entry)
                _check_asked(passport, manifest)
                return TensorRtSession(entry / passports.ENGINE, here=self.machine)
        except (PassportError, UnreadableEngine) as error:
            # Logged once: the engine is checked again under the lock.
            if str(error) != self._logged_reason:
                self._logged_reason = str(error)
                LOG.warning("the engine is rebuilt", extra={"fields": {"engine": str(entry), "reason": str(error)}})
            return None

    def wait(self) -> None:
        """Report that another process holds the cache; raise `Stopped`."""
        self.progress.note(
            f"waiting for another process that builds or proves an engine in {self.cache.folder}, because parallel "
            "builds distort each other's timings"
        )

    def _build(self, folder: Path, manifest: Manifest) -> TensorRtSession:
        """Build the engine, which takes seconds to many minutes."""
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
        session = self.open_cached(folder, manifest)
        if session is None:
            raise BuildError(
                f"the engine {entry} was built but cannot be opened; the log has the reason. Check the disk for "
                "errors, and start again."
            )
        return session


def key_of(manifest: Manifest, machine: Machine) -> str:
    """Return a hash over everything an engine depends on: the model's file, the build settings, and the machine.

    The memory is excluded, because it affects the build but not where the engine runs.
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
    """Return the maximum images per run of the engine; the session splits larger batches."""
    value = manifest.session_options.get("max_batch", MAX_BATCH)
    if not isinstance(value, int) or value < 1:
        raise SessionError(f"the session option max_batch is {value!r}; expected an integer of at least 1.")
    return value


def dla_core_of(manifest: Manifest) -> Optional[int]:
    value = manifest.session_options.get("dla_core")
    if value is not None and not isinstance(value, int):
        raise SessionError(f"the session option dla_core is {value!r}; expected an integer.")
    return value


def _machine() -> Machine:
    try:
        return here()
    except MachineError as error:
        # Report everything that is missing at once.
        try:
            Cuda().name()
        except CudaError as other:
            raise MachineError(f"{error} In addition, {other}") from None
        raise


def _check_asked(passport: passports.Passport, manifest: Manifest) -> None:
    passports.check_asked(passport, precision=manifest.precision, dla_core=dla_core_of(manifest))
    if passport.onnx_sha256 != manifest.model_sha256:
        raise PassportError(
            f"onnx_sha256 is {manifest.model_sha256[:16]}… in the manifest, but the engine was built from "
            f"{passport.onnx_sha256[:16]}…. Build it again."
        )


def _check_generation(manifest: Manifest) -> None:
    """Check that the file was written for the installed TensorRT (see `targets.dialects.tensorrt_source`)."""
    import tensorrt

    from targets.device.tensorrt.build import generation_of

    found, wanted = str(tensorrt.__version__), manifest.runtime_version
    if type(generation_of(found)) is not type(generation_of(wanted)):
        raise BuildError(
            f"TensorRT {found} is installed, but the model's file was written for {wanted}, which differs in format. "
            f"Use the base image of the target {manifest.target}, or build the image for a target with {found}."
        )
