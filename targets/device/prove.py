"""python -m targets.device prove: prove the model on this device without serving it, and write the proof."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Optional

from targets.device.errors import ModelError
from targets.device.files import SHARD
from targets.device.gate.judge import PASS
from targets.device.gate.run import make_report, predict
from targets.device.gate.shard import Shard
from targets.device.gate.started import Started
from targets.device.gate.tango import CONFIDENCE
from targets.device.measurements import measure_latency
from targets.device.model.manifest import TENSORRT, sha256_of
from targets.device.model.variant import Chosen, choose
from targets.device.progress import Progress
from targets.device.selftest import MAX_DROP
from targets.device.server import start_onnxruntime as ort_start
from targets.device.server.evidence import write_to
from targets.device.settings import Settings


class ProveError(ModelError):
    """The proof cannot be written."""


def prove(settings: Settings, out: Path, shard: Optional[Path], progress: Progress) -> Started:
    """Judge the model and write the evidence into the folder `out`; `shard` is the image's by default.

    Raises `ModelError`, `ManifestError`, `ProofError`, `ShardError`, `ImageError` or `MeasureError` if the model
    cannot be judged here.
    """
    # Before an engine build, which takes minutes.
    _prepare(out)
    chosen = choose(settings.model_folder)
    bundled = settings.model_folder / SHARD
    given = bundled if shard is None else shard
    if chosen.manifest.runtime == TENSORRT:
        started = _prove_on_gpu(chosen, given, settings, progress)
    else:
        started = _prove_on_cpu(chosen, given, settings, progress)
    with started.session:
        try:
            write_to(out, started)
        except OSError as error:
            raise ProveError(_unwritable(out, error)) from None
    return started


def _prove_on_gpu(chosen: Chosen, shard: Path, settings: Settings, progress: Progress) -> Started:
    from targets.device.tensorrt.engines import Engines
    from targets.device.tensorrt.start import TensorRtStart
    from targets.device.tensorrt.terms import read_terms

    terms = read_terms(chosen.folder)
    engines = Engines(settings.engine_cache, progress)
    bundled = chosen.folder / SHARD
    keeps = shard == bundled or (bundled.is_file() and shard.is_file() and sha256_of(shard) == sha256_of(bundled))
    starting = TensorRtStart(engines, shard, terms, measure_seconds=settings.measure_seconds, keeps=keeps)
    return starting.start(chosen)


def _prove_on_cpu(chosen: Chosen, shard: Path, settings: Settings, progress: Progress) -> Started:
    """Judge by the margin of the model's report, or by the default one."""
    progress.enter("open", "opening the model and comparing its logits with the golden ones")
    started = ort_start.start(chosen)
    session, manifest = started.session, chosen.manifest
    terms = started.report or {"max_drop_points": MAX_DROP}
    max_drop, confidence = float(terms["max_drop_points"]), float(terms.get("confidence", CONFIDENCE))
    with Shard(shard) as images:
        progress.enter("gate", f"running the model on the gate's {len(images)} images")
        predictions = predict(images, session, manifest, lambda _count: progress.check())
        report = make_report(images, predictions, manifest, max_drop=max_drop, confidence=confidence)
    refusal = started.refusal or ("" if report["verdict"] == PASS else f"the gate says {report['verdict']}.")
    return replace(
        started,
        report=report,
        is_proven=not refusal,
        refusal=refusal,
        remark="",
        predictions=predictions,
        measurements=measure_latency(session, settings.measure_seconds, progress),
    )


def _prepare(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=str(out)):
            pass
    except OSError as error:
        raise ProveError(_unwritable(out, error)) from None


def _unwritable(out: Path, error: OSError) -> str:
    return f"the proof cannot be written to {out}: {error}. Name a writable folder with enough free space."
