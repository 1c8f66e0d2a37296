"""Open an artifact with the runtime that its manifest names; an image has only one runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

from targets.device.errors import SessionError
from targets.device.model.manifest import ONNXRUNTIME, TENSORRT, Manifest
from targets.device.model.session import Session, check_shape


def open_session(folder: Path, manifest: Manifest) -> Session:
    """Open the model of an artifact folder exactly as its manifest specifies.

    An engine is taken from the engine cache, or first built there, which takes minutes. Raises
    `ManifestError` and `SessionError`; for an engine also `BuildError`, `CacheError`, `CudaError` and `MachineError`.
    """
    session: Session
    if manifest.runtime == ONNXRUNTIME:
        session = _open_onnxruntime(folder, manifest)
    elif manifest.runtime == TENSORRT:
        from targets.device.tensorrt.engines import Engines

        session = Engines().open_or_build(folder, manifest)
    else:
        raise SessionError(
            f"the artifact {folder} needs the runtime {manifest.runtime!r}; this version supports {ONNXRUNTIME} and "
            f"{TENSORRT}."
        )
    check_shape(session, folder, manifest)
    return session


def _open_onnxruntime(folder: Path, manifest: Manifest) -> Session:
    try:
        import onnxruntime

        # Imported only here, because an image with TensorRT has no ONNX Runtime.
        from targets.device.model.onnxruntime_session import OnnxRuntimeSession
    except ImportError as error:
        raise SessionError(
            f"the artifact {folder} needs ONNX Runtime, which cannot be imported: {error}. Use the image "
            "that was built for it."
        ) from None
    here = str(onnxruntime.__version__)
    if _release(here) < _release(manifest.runtime_version):
        raise SessionError(
            f"ONNX Runtime {here} is older than {manifest.runtime_version}, with which the artifact "
            f"{folder} was proven. Install onnxruntime>={manifest.runtime_version}."
        )
    return OnnxRuntimeSession(manifest.model_path(folder), manifest.session_options)


def _release(version: str) -> Tuple[int, ...]:
    """Return (1, 32) for 1.32.0: patch releases keep kernels and file format."""
    return tuple(int(part) for part in version.split(".")[:2])
