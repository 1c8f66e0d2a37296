"""python -m targets.device.tensorrt.build_worker ASSIGNMENT PARENT: the process that builds one engine."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

from targets.device.errors import CacheError, ModelError
from targets.device.files import LAYERS
from targets.device.tensorrt import passport as passports
from targets.device.tensorrt.build import Order, build, timing_cache_file
from targets.device.tensorrt.build_process import REFUSED, Assignment
from targets.device.tensorrt.cache import cache_errors
from targets.device.tensorrt.session import TensorRtSession

# prctl(2): signal this process when its parent exits.
PR_SET_PDEATHSIG = 1


def make(assignment: Assignment) -> Tuple[Tuple[str, ...], Dict[str, int]]:
    """Build and write `model.engine`, `passport.json` and `layers.json`; raise `ModelError`.

    Returns TensorRT's warnings, and the number of computing layers by precision.
    """
    machine, folder, source = passports.here(), Path(assignment.folder), Path(assignment.onnx)
    cache, engine = timing_cache_file(Path(assignment.timing_caches), machine), folder / passports.ENGINE
    order = Order(
        onnx=source,
        precision=assignment.precision,
        max_batch=assignment.max_batch,
        memory_bytes=machine.memory_bytes,
        dla_core=assignment.dla_core,
        timing_cache=cache,
    )
    with cache_errors(folder.parent):
        built = build(order)
        engine.write_bytes(built.engine)
        passports.issue(
            machine,
            engine,
            source,
            precision=assignment.precision,
            dla_core=assignment.dla_core,
            timing_cache=cache,
            built_at_place="device",
            tool=assignment.tool,
        ).write(folder)
        with TensorRtSession(engine, here=machine) as session:
            report = session.layers()
            (folder / LAYERS).write_text(json.dumps(report.as_json(), indent=2) + "\n")
    return built.warnings, report.by_precision()


def main(arguments: List[str]) -> int:
    """Write the result as one line of JSON to stdout; output of libraries is redirected to stderr."""
    _die_with(int(arguments[1]))
    answers = os.dup(1)
    os.dup2(2, 1)
    start = time.monotonic()
    answer: Dict[str, Any]
    try:
        warnings, layers = make(Assignment(**json.loads(arguments[0])))
        status, answer = (
            0,
            {"warnings": list(warnings), "layers": layers, "seconds": round(time.monotonic() - start, 1)},
        )
    except ModelError as error:
        status, answer = REFUSED, {"kind": "cache" if isinstance(error, CacheError) else "build", "reason": str(error)}
    with os.fdopen(answers, "w") as stream:
        stream.write(json.dumps(answer))
    return status


def _die_with(parent: int) -> None:
    """End this process if the parent is killed, since it would continue without the cache's lock."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The parent may have been killed while this process was starting.
    if os.getppid() != parent:
        os._exit(REFUSED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
