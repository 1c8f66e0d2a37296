"""CPU time of a quantized network with some of its layers in float, as the target's runtime runs it on this host."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from pipeline.artifacts import Checkpoint
from pipeline.progress import Progress, Silent, portion, reporting
from pipeline.quantize.marked_graph import export_marked
from pipeline.quantize.network import with_float
from targets.dialects.write import write_dialect
from targets.runtimes.registry import RUNTIMES
from targets.target import Target

EXPORTED = 0.8
"""Of the work as it is reported: an export takes longer than a timing."""


@dataclass(frozen=True, kw_only=True)
class Toll:
    checkpoint: Checkpoint
    target: Target
    threads: int
    progress: Progress = field(default_factory=Silent)

    def times_ms(self, sets: Sequence[frozenset[str]]) -> list[float]:
        """Milliseconds at batch 1 for each set of layers in float, all timed in turn in one run."""
        runtime = RUNTIMES[self.target.runtime]
        options = runtime.session_options(self.target, threads=self.threads)
        with (
            reporting(self.progress, "time layers in float", len(sets)) as report,
            tempfile.TemporaryDirectory(prefix="edge-deploy-") as folder,
        ):
            files = []
            for index, layers in enumerate(sets):
                with portion(report, EXPORTED / len(sets)):
                    files.append(self._write(layers, Path(folder) / f"{index}.onnx"))
            with portion(report, 1 - EXPORTED) as part:
                return [latency.cpu_ms for latency in runtime.time(files, options=options, report=part)]

    def _write(self, layers: frozenset[str], path: Path) -> Path:
        network, quantization = with_float(self.checkpoint, layers)
        marked = export_marked(network, self.checkpoint.architecture.input_shape)
        onnx.save(write_dialect(marked, quantization, self.target.dialect), path)
        return path
