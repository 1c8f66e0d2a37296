"""Build an engine in a separate process (`build_worker`), which may crash or be killed without affecting this one."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Optional

from targets.device.errors import BuildError, CacheError
from targets.device.nvidia.machine import Machine
from targets.device.progress import Progress
from targets.device.settings import MEBIBYTE

LOG = logging.getLogger(__name__)
MODULE = "targets.device.tensorrt.build_worker"
ROOT = Path(__file__).resolve().parents[3]
MEMORY = Path("/proc/meminfo")
POLL_SECONDS = 0.2
TAIL_LETTERS = 2000
REFUSED = 3
"""Exit status of a builder that reports an error; 1 is an uncaught Python exception."""


@dataclass(frozen=True)
class Assignment:
    """The builder's input; it writes engine, passport and layer report into `folder`."""

    onnx: str
    folder: str
    timing_caches: str
    precision: str
    max_batch: int
    dla_core: Optional[int]
    tool: str


def run_builder(assignment: Assignment, machine: Machine, progress: Progress) -> None:
    """Build the engine and report progress; raise `BuildError`, `CacheError` or, after killing it, `Stopped`."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    what = (
        f"building the {assignment.precision} engine with TensorRT {machine.tensorrt} for {machine.gpu_name}, which "
        "takes minutes without a timing cache"
    )
    progress.enter("build", what)
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE, json.dumps(asdict(assignment)), str(os.getpid())],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        answer, said = _communicate(process, progress, what)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode not in (0, REFUSED):
        raise BuildError(_death_text(process.returncode, said, machine))
    result: Dict[str, Any] = json.loads(answer)
    if process.returncode == REFUSED:
        # The message has the reason and the cure; the kind decides the error class.
        raise (CacheError if result["kind"] == "cache" else BuildError)(_with_memory(str(result["reason"]), machine))
    LOG.info(
        "the engine is built", extra={"fields": {name: result[name] for name in ("warnings", "layers", "seconds")}}
    )


def free_memory() -> str:
    """Return the machine's free memory in words; a Jetson's GPU shares it."""
    try:
        lines = dict(line.split(":", 1) for line in MEMORY.read_text(encoding="ascii").splitlines())
        total, free = (int(lines[name].split()[0]) // 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return "the amount of free memory is unknown"
    return f"{free} of {total} MiB of memory are free"


def _communicate(process: "subprocess.Popen[bytes]", progress: Progress, what: str) -> "tuple[str, str]":
    while True:
        try:
            answer, said = process.communicate(timeout=POLL_SECONDS)
        except subprocess.TimeoutExpired:
            progress.note(what)
            continue
        return answer.decode(errors="replace"), said.decode(errors="replace")


def _death_text(status: int, said: str, machine: Machine) -> str:
    tail = said.strip()[-TAIL_LETTERS:]
    if status == -signal.SIGKILL:
        return (
            "the build process of the engine was killed, probably by the kernel because memory ran out: "
            f"{free_memory()} now, the GPU has {machine.memory_bytes // MEBIBYTE} MiB. Stop other programs, give the "
            "container more memory (--memory), or add swap; then start again."
        )
    how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return (
        f"the build process of the engine ended {how}; TensorRT {machine.tensorrt} reported: {tail or 'nothing'}. "
        "Check that the driver matches the image, and start again."
    )


def _with_memory(reason: str, machine: Machine) -> str:
    if "memory" not in reason.lower():
        return reason
    return (
        f"{reason} Now {free_memory()}, the GPU has {machine.memory_bytes // MEBIBYTE} MiB in all. "
        "Stop other programs that use it, and start again."
    )
