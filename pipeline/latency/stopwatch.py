"""Time a subnetwork beside the unpruned network, as whole models without a profiler, before any training.

A table's prediction is a sum of layers; the whole network may differ. Both are cut from the same exported graph
(`pipeline.latency.subnetwork`), so that a measurement takes seconds.
"""

import statistics
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import onnx

from pipeline.artifacts import Checkpoint, Dialect, Precision
from pipeline.latency.profile import subject_of
from pipeline.latency.sampling_plan import Subject
from pipeline.latency.subnetwork import Subnetwork, cut_subnetwork
from pipeline.latency.table import Timing
from pipeline.progress import Report, ignore_share, portion
from targets.dialects.write import write_dialect
from targets.runtimes.onnxruntime.runtime import OnnxRuntimeCpu
from targets.target import Target

RUNS, MAX_RUNS = 3, 9
CERTAIN = 0.9
"""Share of the reported progress for the runs that are always made; further runs share the rest."""
MIN_NOISE, MAX_NOISE = 0.01, 0.03
"""Bounds of the noise estimated from the spread of the runs."""


class Stopwatch:
    """Timer for subnetworks of one network on this machine."""

    def __init__(
        self, checkpoint: Checkpoint, *, target: Target, precision: str, weight_bits: Literal[7, 8], threads: int
    ) -> None:
        self._checkpoint, self._target = checkpoint, target
        self._dialect = target.dialect if precision == Precision.INT8 else Dialect.FLOAT
        self._weight_bits: Literal[7, 8] = weight_bits
        self._runtime = OnnxRuntimeCpu()
        self._options = self._runtime.session_options(target, threads=threads)

    def time(self, subnetwork: Subnetwork, report: Report = ignore_share) -> Timing:
        """Cut the subnetwork from the graph and time it."""
        report(0.0, note="exporting")
        with tempfile.TemporaryDirectory(prefix="edge-deploy-") as name:
            return self.time_file(self._write(subnetwork, Path(name) / "pruned.onnx"), report)

    def time_file(self, model: Path, report: Report = ignore_share) -> Timing:
        """Time an ONNX file with the same inputs beside the unpruned network."""
        report(0.0, note="exporting")
        with tempfile.TemporaryDirectory(prefix="edge-deploy-") as name:
            unpruned = self._write(Subnetwork(widths=self._subject.full), Path(name) / "unpruned.onnx")
            runs: list[list[float]] = []
            # On a busy machine three runs may disagree: repeat while it helps.
            while len(runs) < RUNS or (len(runs) < MAX_RUNS and spread_of(runs) > MAX_NOISE):
                share = CERTAIN / RUNS if len(runs) < RUNS else (1 - CERTAIN) / (MAX_RUNS - RUNS)
                with portion(report, share, f"run {len(runs) + 1}") as part:
                    times = self._runtime.time([unpruned, model], options=self._options, report=part)
                runs.append([each.cpu_ms for each in times])
        unpruned_ms, pruned_ms = (statistics.median(each) for each in zip(*runs, strict=True))
        return Timing(
            unpruned_ms=unpruned_ms,
            pruned_ms=pruned_ms,
            noise=min(max(spread_of(runs), MIN_NOISE), MAX_NOISE),
        )

    @cached_property
    def _subject(self) -> Subject:
        return subject_of(self._checkpoint, multiple=self._target.channel_multiple, weight_bits=self._weight_bits)

    def _write(self, subnetwork: Subnetwork, path: Path) -> Path:
        subject = self._subject
        cut = cut_subnetwork(subject.marked, subject.quantization, subject.layers, subject.full, subnetwork)
        onnx.save(write_dialect(*cut, self._dialect), path)
        return path


def spread_of(runs: Sequence[Sequence[float]]) -> float:
    """Return half the range of the ratio pruned / unpruned, relative to its median; of many runs the middle half's.

    `runs`: milliseconds of the unpruned and the pruned network in each.
    """
    ratios = sorted(pruned / unpruned for unpruned, pruned in runs)
    outside = len(ratios) // 4
    middle = ratios[outside : len(ratios) - outside]
    return (middle[-1] - middle[0]) / 2 / statistics.median(ratios)
