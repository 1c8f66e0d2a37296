"""Compile every precision of the compressed network into a complete artifact, audited, measured and timed here.

For a TensorRT target the artifact is the source of its engine. ONNX Runtime simulates its arithmetic here; time and
layers can only be measured on the device.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx
import onnxruntime

from pipeline.artifacts import Audit, Candidate, Compilation, Latency, OnnxModel, Precision
from pipeline.compile.artifact_folder import MODEL, add_golden, input_shape, open_artifact, write_artifact
from pipeline.compile.engine_audit import write_plan
from pipeline.compile.result import write_compilation
from pipeline.compile.settings import CompileSettings
from pipeline.data.images import ImageSet
from pipeline.data.sampling import count_right, logits_of_each
from pipeline.progress import Progress
from pipeline.workplace import Data, Workplace
from pipeline.workspace.hashing import sha256_of_file
from targets.device.model.cpu import instruction_set
from targets.device.model.manifest import SCHEMA, Manifest
from targets.device.model.session import Inference
from targets.dialects.tensorrt_source import source_for
from targets.host import check_host, host_platform, resolve_place
from targets.runtimes.registry import RUNTIMES
from targets.target import Target

DLA_CORE = 0
"""The first one: all DLAs are alike, and an image serves one model."""
TOLERANCE = 1e-3
"""Share of the logits' range. On one instruction set only sums split over other threads can differ."""


def compile_candidates(
    models: Mapping[Precision, OnnxModel],
    baseline: OnnxModel,
    data: Data,
    settings: CompileSettings,
    at: Workplace,
) -> None:
    """Write one artifact folder per precision, `compilation.json` and `timings.json`.

    `baseline` is the unpruned float network, the reference for accuracy and latency. Raises `TargetError` if this
    host cannot measure for the target, and `CompileError`.
    """
    target, folder, preprocessing = settings.target, at.folder, data.preprocessing
    check_host(target)
    runtime = RUNTIMES[target.runtime]
    options = runtime.session_options(target, threads=settings.threads)
    selection = data.dataset.selection
    describe = partial(
        Manifest,
        schema=SCHEMA,
        name=settings.name,
        version=settings.version,
        target=target.name,
        runtime=target.runtime,
        runtime_version=runtime.version if target.gpu is None else settings.tensorrt,
        model_file=MODEL,
        input_shape=input_shape(selection, preprocessing),
        classes=data.dataset.classes,
        preprocessing=preprocessing,
        session_options=dict(options) | ({"dla_core": DLA_CORE} if settings.dla else {}),
        instruction_set=instruction_set(),
        tolerance=TOLERANCE,
    )
    if target.gpu is not None:
        models = {each: _source(model, each, settings.tensorrt, folder) for each, model in models.items()}
    for precision, model in models.items():
        manifest = describe(
            precision=precision.value,
            weight_bits=settings.weight_bits if precision is Precision.INT8 else None,
            model_sha256=sha256_of_file(model.path),
        )
        write_artifact(folder / precision, model, manifest)
        if target.gpu is not None:
            write_plan(model, folder / precision)
            model.path.unlink()
    write_compilation(
        _measure_candidates(models, baseline, target, settings.threads, selection, at.progress, folder), folder
    )


def _measure_candidates(
    models: Mapping[Precision, OnnxModel],
    baseline: OnnxModel,
    target: Target,
    threads: int,
    selection: ImageSet,
    progress: Progress,
    folder: Path,
) -> Compilation:
    here = RUNTIMES["onnxruntime"]
    options = here.session_options(target, threads=threads)
    folders = [folder / precision for precision in models]
    audits: Sequence[Audit | None] = [None] * len(models)
    latencies: Sequence[Latency | None] = [None] * len(models)
    float_latency: Latency | None = None
    if target.gpu is None:
        audits = [here.audit(model, options=options, platform=target.platform) for model in models.values()]
    float_right, *rights = _count_right(here.open(baseline.path, options=options), folders, selection, progress)
    if target.gpu is None:
        progress.detail(f"timing {len(models) + 1} models in one run on {threads} thread{'s' if threads > 1 else ''}")
        float_latency, *latencies = here.time([baseline.path, *(path / MODEL for path in folders)], options=options)
    candidates = tuple(
        Candidate(
            precision=precision,
            folder=path,
            latency=latency,
            audit=audit,
            selection_top1=right / len(selection),
            # From counts: a drop of exactly the margin must not exceed it by a rounding error.
            selection_drop_points=100 * (float_right - right) / len(selection),
        )
        for precision, path, latency, audit, right in zip(models, folders, latencies, audits, rights, strict=True)
    )
    return Compilation(
        candidates=candidates,
        float_latency=float_latency,
        selection_images=len(selection),
        place=resolve_place(target),
        measured_by=host_platform() if target.gpu is None else f"ONNX Runtime {onnxruntime.__version__}",
    )


def _source(model: OnnxModel, precision: Precision, tensorrt: str, folder: Path) -> OnnxModel:
    """Return the file that this TensorRT builds an engine from."""
    path = folder / f"{precision}.onnx"
    onnx.save(source_for(onnx.load(model.path), tensorrt, precision), path)
    return replace(model, path=path, precision=precision)


def _count_right(baseline: Inference, folders: list[Path], selection: ImageSet, progress: Progress) -> list[int]:
    """Return the images that baseline and artifacts classify correctly, opened as on the device; add golden images."""
    with ExitStack() as stack:
        artifacts = [stack.enter_context(open_artifact(path)) for path in folders]
        sessions = [baseline, *(artifact.session for artifact in artifacts)]
        logits = logits_of_each(sessions, selection, artifacts[0].manifest.preprocessing, progress)
        for artifact, answers in zip(artifacts, logits[1:], strict=True):
            add_golden(artifact, selection, answers)
    return [count_right(answers, selection.labels) for answers in logits]
