"""`deploy bench`: artifacts and ONNX files timed against each other in one run."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts import Latency
from pipeline.errors import CompileError
from targets.base import Runtime, find_target
from targets.device.manifest import ManifestError, read_manifest
from targets.runtimes import RUNTIMES

DEFAULT_TARGET = "cpu"


def bench(models: Sequence[Path], *, threads: int = 1) -> list[Latency]:
    """Latency of each artifact folder or ONNX file at batch 1, interleaved, on the same number of threads.

    All are opened with the options of the `cpu` target, an artifact's own number of threads included, so that
    nothing but the models differs. Raises `CompileError` for what cannot be opened.
    """
    runtime = _runtime()
    options = runtime.session_options(find_target(DEFAULT_TARGET), threads=threads)
    return runtime.time([model_file(path) for path in models], options=options)


def model_file(path: Path) -> Path:
    """The ONNX file of an artifact folder, its hash checked, or `path` itself where it is one."""
    if path.is_dir():
        try:
            return read_manifest(path).model_path(path)
        except ManifestError as error:
            raise CompileError(str(error)) from None
    if not path.is_file():
        raise CompileError(f"{path} does not exist. Give artifact folders or ONNX files.")
    return path


def _runtime() -> Runtime:
    return RUNTIMES[find_target(DEFAULT_TARGET).runtime]
