"""`deploy bench`: time artifacts and ONNX files against each other in one run, and record its conditions."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import Latency
from pipeline.errors import CompileError
from targets.device.bench.conditions import explain_missing, find_disturbances, find_relevant_load, summary
from targets.device.bench.sampler import ROOT, Record, Sampler, find_sensors
from targets.device.bench.statistics import WINDOWS, find_instability
from targets.device.model.manifest import ManifestError, read_manifest
from targets.runtimes.onnxruntime.runtime import OnnxRuntimeCpu
from targets.runtimes.timing import Series
from targets.target import find_target

DEFAULT_TARGET = "cpu"
IDLE_SECONDS = 1.0
MIN_RUNS = 3 * WINDOWS
"""Per model; ten windows need at least this many runs."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Latencies in the order of the models, and whether they are reliable."""

    latencies: tuple[Latency, ...]
    reasons: tuple[str, ...]
    """Why not; empty if the run was stable."""
    conditions: Mapping[str, Any]
    """Clocks, temperatures, throttling and load during the run; `bench.conditions.summary` has the keys."""
    facts: Mapping[str, str]
    """Constant facts: the governor, the limits of the clocks."""
    missing: Mapping[str, str]
    """Values this machine does not report, with the reasons."""


def bench(models: Sequence[Path], *, threads: int = 1, root: Path = ROOT) -> Bench:
    """Return the latency of each artifact folder or ONNX file at batch 1, interleaved, with the same threads.

    All are opened with the options of the `cpu` target, including an artifact's number of threads, so that
    only the models differ. `root` replaces the sensors' root folder. Raises `CompileError` for a file that
    cannot be opened.
    """
    runtime = OnnxRuntimeCpu()
    options = runtime.session_options(find_target(DEFAULT_TARGET), threads=threads)
    files = [model_file(path) for path in models]
    sensors = find_sensors(root, gpu=False)
    try:
        with Sampler(sensors) as sampler:
            started = time.perf_counter()
            time.sleep(IDLE_SECONDS)
            loaded = time.perf_counter()
            series = runtime.series(files, options=options)
        idle, record = sampler.between(started, loaded), sampler.between(loaded, math.inf)
    finally:
        sensors.close()
    return Bench(
        latencies=tuple(one.latency() for one in series),
        reasons=tuple(_reasons(models, series, idle, record)),
        conditions=summary(record),
        facts=sensors.facts,
        missing={**sensors.missing, **explain_missing(record)},
    )


def model_file(path: Path) -> Path:
    """Return the ONNX file of an artifact folder, its hash checked, or `path` itself if it is a file."""
    if path.is_dir():
        try:
            manifest = read_manifest(path)
            model = manifest.model_path(path)
        except ManifestError as error:
            raise CompileError(str(error)) from None
        if manifest.runtime == "tensorrt":
            raise CompileError(
                f"{path} is for {manifest.target}, and its engine can only be timed there: in its image, "
                "python3 -m targets.device bench."
            )
        return model
    if not path.is_file():
        raise CompileError(f"{path} does not exist. Give artifact folders or ONNX files.")
    return path


def _reasons(models: Sequence[Path], series: Sequence[Series], idle: Record, record: Record) -> list[str]:
    """Return why the run is not stable. Heat is not a reason: it affects all models, and throttled clocks are one."""
    found = [*find_relevant_load(idle, record, gpu=False), *find_disturbances(record, gpu=False, heat=False)]
    for path, one in zip(models, series, strict=True):
        if len(one.cpu) >= MIN_RUNS:
            windows = np.array_split(np.array(one.cpu, np.float64), WINDOWS)
            found += [f"{path}: {reason}" for reason in find_instability(windows)]
    return found
