"""Time each node of a graph with ONNX Runtime's profiler; several graphs in turn.

The profiler records wall time per kernel in whole microseconds. The result is the mean of the faster half of a node's
times: delays from other load or the scheduler fall into the slower half, and rounding errors average out.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from pipeline.errors import CompileError
from targets.device.model.onnxruntime_session import ORT_ERRORS, PROVIDER, ort_options
from targets.runtimes.timing import MIN_ROUNDS, MODEL_SECONDS, Report, block_size, reported

MAX_RUNS = 400
KERNEL = "_kernel_time"


@dataclass(frozen=True, kw_only=True)
class NodeTime:
    name: str
    """Name in the optimized graph."""
    microseconds: float


def time_nodes(
    models: Sequence[Path], *, options: Mapping[str, str | int], report: Report | None = None
) -> list[list[NodeTime]]:
    """Return the time of every node in execution order, for each ONNX file at batch 1; files run in turn."""
    with tempfile.TemporaryDirectory(prefix="edge-deploy-") as folder:
        sessions = [_session(model, options, Path(folder) / f"{index}") for index, model in enumerate(models)]
        image = {session.get_inputs()[0].name: _image(session) for session in sessions[:1]}
        runs = [(lambda session=session: session.run(None, image)) for session in sessions]
        sizes = [block_size(run) for run in runs]
        rounds = max(MIN_ROUNDS, min(MAX_RUNS // max(size for size, _ in sizes), _affordable(sizes)))
        for number in reported(rounds, report):
            for place in range(len(runs)):
                index = (place + number) % len(runs)
                for _ in range(sizes[index][0]):
                    runs[index]()
        return [_read(Path(session.end_profiling())) for session in sessions]


def _affordable(sizes: Sequence[tuple[int, float]]) -> int:
    return int(MODEL_SECONDS * len(sizes) / sum(size * seconds for size, seconds in sizes))


def _session(model: Path, options: Mapping[str, str | int], prefix: Path) -> ort.InferenceSession:
    made = ort_options(options)
    made.enable_profiling = True
    made.profile_file_prefix = str(prefix)
    try:
        return ort.InferenceSession(str(model), made, providers=[PROVIDER])
    except ORT_ERRORS as error:
        raise CompileError(f"ONNX Runtime {ort.__version__} cannot open {model}: {error}") from None


def _image(session: ort.InferenceSession) -> np.ndarray:
    shape = [1, *session.get_inputs()[0].shape[1:]]
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _read(profile: Path) -> list[NodeTime]:
    times: dict[str, list[int]] = {}
    for event in json.loads(profile.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            times.setdefault(event["name"].removesuffix(KERNEL), []).append(event["dur"])
    return [NodeTime(name=name, microseconds=_typical(values)) for name, values in times.items()]


def _typical(values: Sequence[int]) -> float:
    ordered = np.sort(np.array(values, np.float64))
    return float(ordered[: max(1, len(ordered) // 2)].mean())
