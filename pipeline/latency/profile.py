"""Profile: measure a network's latency table on this machine, and check it on networks not used for it.

A few dozen subnetworks are cut from the real graph so that every layer shape occurs at least once with every pair of
widths of the grid. The runtime's profiler measures each layer there, fusions included; all run in turn, beside the
unpruned network, whose time links runs of different minutes. Then whole networks are timed without the profiler:
some to fit the time between layers, others only to check the prediction.
"""

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import ModelProto
from scipy.optimize import nnls
from torch import nn

from pipeline.artifacts import Architecture, Checkpoint, Dialect, Place, Precision, Quantization
from pipeline.errors import CompressionError, TargetError
from pipeline.latency.layers import layer_shapes, owner_of, owners
from pipeline.latency.sampling_plan import Cell, Subject, plan_subnetworks, random_subnetwork, widths_of
from pipeline.latency.subnetwork import Subnetwork, cut_subnetwork, removable_blocks, sites
from pipeline.latency.table import FILE, Check, LatencyTable, Times
from pipeline.models.checkpoint import build_network
from pipeline.models.surgery import channel_groups
from pipeline.progress import Progress, Report, portion, reporting
from pipeline.quantize.fake_quant import Mode, set_mode
from pipeline.quantize.marked_graph import export_marked
from pipeline.quantize.network import points_of, prepare, quantization_of
from targets.device.model.cpu import instruction_set, processor_name
from targets.dialects.write import write_dialect
from targets.host import check_host, host_platform, resolve_place
from targets.runtimes.onnxruntime.layer_times import NodeTime, time_nodes
from targets.runtimes.onnxruntime.runtime import OnnxRuntimeCpu
from targets.target import Target

FITTED, CHECKED = 10, 6
"""Number of whole networks timed for the fit, and for the check."""
CUTTING = 0.2
"""Share of the reported progress for cutting and writing a subnetwork, the rest is for timing it."""
CHUNK_BYTES = 400_000_000
"""For models that are open at the same time."""
SEED = 0


def profile(
    checkpoint: Checkpoint, *, target: Target, threads: int, weight_bits: int, progress: Progress, folder: Path
) -> None:
    """Write `table.json` for `checkpoint`'s network; its weights do not matter.

    Raises `TargetError` for a target that this machine cannot time, `CompressionError` and `ExportError` for a
    network that cannot be cut.
    """
    check_clock(target)
    rng = random.Random(SEED)
    with progress.task("export to profile", 1) as advance:
        subject = subject_of(checkpoint, multiple=target.channel_multiple, weight_bits=7 if weight_bits == 7 else 8)
        plan = plan_subnetworks(subject, rng)
        advance()
    whole = [Subnetwork(widths=subject.full), *(random_subnetwork(subject, rng) for _ in range(FITTED + CHECKED - 1))]
    runtime = OnnxRuntimeCpu()
    options = runtime.session_options(target, threads=threads)
    precisions: dict[str, Times] = {}
    wanted = [precision for precision in target.precisions if precision is not Precision.FP16]
    of_one = len(plan) + len(whole)
    with (
        reporting(progress, "profile", len(wanted) * of_one) as report,
        tempfile.TemporaryDirectory(prefix="edge-deploy-") as name,
    ):
        for precision in wanted:
            progress.detail(f"timing layers of {len(plan)} subnetworks in {precision}, {len(whole)} whole networks")
            dialect = target.dialect if precision is Precision.INT8 else Dialect.FLOAT
            with portion(report, len(plan) / of_one / len(wanted), f"layers in {precision}") as part:
                times = _layer_times(subject, plan, dialect, Path(name), options, part)
            with portion(report, len(whole) / of_one / len(wanted), f"whole networks in {precision}") as part:
                measured = _whole_times(subject, whole, dialect, Path(name), options, part)
            precisions[precision.value] = fit_times(subject, times, whole, measured)
    table = LatencyTable(
        architecture=checkpoint.architecture.name,
        target=target.name,
        machine=machine(),
        runtime=f"onnxruntime {runtime.version}",
        threads=threads,
        full=subject.full,
        grid=subject.grid,
        layers=subject.shapes,
        precisions=precisions,
    )
    (folder / FILE).write_text(table.to_json())


def check_clock(target: Target) -> None:
    """Raise `TargetError` if this machine's times are not valid for the target."""
    check_host(target)
    place = resolve_place(target)
    if place is not Place.HOST:
        here = host_platform() if place is Place.EMULATED else "no such GPU"
        raise TargetError(
            f"{target.name} can only be timed on its own platform, and this machine is {here}: no latency table can "
            "be measured here. Import one measured there (--table FILE), or prune by --macs or --params."
        )


def machine() -> dict[str, str]:
    """Return the properties of the machine that a table's times depend on, besides runtime and options."""
    return {"processor": processor_name(), "instruction_set": instruction_set()}


def subject_of(checkpoint: Checkpoint, *, multiple: int, weight_bits: Literal[7, 8]) -> Subject:
    """Return the network exported once, with ranges of noise, since values do not affect the time."""
    network, architecture = build_network(checkpoint), checkpoint.architecture
    groups = channel_groups(network, architecture.input_shape)
    if not groups:
        raise CompressionError("no channels of this network can be pruned, so there is nothing to profile.")
    layers = sites(network, groups)
    marked, quantization = _export_marked(network, architecture, weight_bits)
    return Subject(
        marked=marked,
        quantization=quantization,
        layers=layers,
        shapes=layer_shapes(network, marked, layers, architecture.input_shape),
        full={group.root: group.width for group in groups},
        grid={group.root: widths_of(group, multiple) for group in groups},
        removable=removable_blocks(architecture),
    )


def fit_times(subject: Subject, times: Times, whole: Sequence[Subnetwork], measured: Sequence[float]) -> Times:
    """Return `times` with scale and cost per node fitted to the first `FITTED` networks, checked on the others.

    Least squares of the relative error, neither of the two below zero. `measured`: CPU milliseconds.
    """
    raw = [_raw(subject, times, each) for each in whole]
    rows = np.array([[us / ms, nodes / ms] for (us, nodes), ms in zip(raw, measured, strict=True)])[:FITTED]
    (scale, per_node), _ = nnls(rows / 1e3, np.ones(len(rows)))
    done = replace(times, scale=float(scale), per_node=float(per_node))
    checks = tuple(
        Check(
            widths=dict(each.widths),
            removed=tuple(sorted(each.removed)),
            predicted_ms=(scale * us + per_node * nodes) / 1e3,
            measured_ms=ms,
        )
        for each, (us, nodes), ms in list(zip(whole, raw, measured, strict=True))[FITTED:]
    )
    return replace(done, checks=checks)


def _raw(subject: Subject, times: Times, subnetwork: Subnetwork) -> tuple[float, float]:
    cells = [times.shapes[shape][inputs, outputs] for _, (shape, inputs, outputs) in subject.cells(subnetwork)]
    return times.rest[0] + sum(us for us, _ in cells), times.rest[1] + sum(nodes for _, nodes in cells)


def _layer_times(
    subject: Subject,
    plan: Sequence[Subnetwork],
    dialect: Dialect,
    folder: Path,
    options: Mapping[str, str | int],
    report: Report,
) -> Times:
    """Return mean times of all cells; the unpruned network, `plan[0]`, is timed in the run of each group."""
    found: dict[Cell, list[tuple[float, int]]] = {}
    rest: list[tuple[float, int]] = []
    level: float | None = None
    reference = _write(subject, plan[0], dialect, folder / "reference.onnx")
    many = max(4, CHUNK_BYTES // reference.stat().st_size)
    for start in range(0, len(plan), many):
        chunk = plan[start : start + many]
        with portion(report, len(chunk) / len(plan)) as part:
            files = _write_models(subject, chunk, dialect, folder, part)
            with portion(part, 1 - CUTTING) as timing:
                company, *timed = time_nodes([reference, *files], options=options, report=timing)
        total = sum(node.microseconds for node in company)
        level = total if level is None else level
        for each, file, nodes in zip(chunk, files, timed, strict=True):
            by_layer = _by_layer(nodes, owners(onnx.load(file)), level / total)
            rest.append(by_layer.pop(None, (0.0, 0)))
            for name, cell in subject.cells(each):
                found.setdefault(cell, []).append(by_layer.get(name, (0.0, 0)))
    shapes: dict[str, dict[tuple[int, int], tuple[float, float]]] = {}
    for (shape, inputs, outputs), values in found.items():
        shapes.setdefault(shape, {})[inputs, outputs] = _mean(values)
    return Times(shapes=shapes, rest=_mean(rest), scale=1.0, per_node=0.0, checks=())


def _whole_times(
    subject: Subject,
    whole: Sequence[Subnetwork],
    dialect: Dialect,
    folder: Path,
    options: Mapping[str, str | int],
    report: Report,
) -> list[float]:
    """Return the CPU milliseconds of each, timed without a profiler."""
    files = _write_models(subject, whole, dialect, folder, report)
    with portion(report, 1 - CUTTING) as timing:
        return [latency.cpu_ms for latency in OnnxRuntimeCpu().time(files, options=options, report=timing)]


def _by_layer(nodes: Sequence[NodeTime], known: dict[str, str], scale: float) -> dict[str | None, tuple[float, int]]:
    """Return microseconds and nodes of each layer; nodes of unknown layers count for the layer that ran before."""
    summed: dict[str | None, tuple[float, int]] = {}
    layer: str | None = None
    for node in nodes:
        layer = owner_of(node.name, known) or layer
        before = summed.get(layer, (0.0, 0))
        summed[layer] = (before[0] + scale * node.microseconds, before[1] + 1)
    return summed


def _mean(values: Sequence[tuple[float, int]]) -> tuple[float, float]:
    return float(np.mean([us for us, _ in values])), float(np.mean([nodes for _, nodes in values]))


def _write_models(
    subject: Subject, subnetworks: Sequence[Subnetwork], dialect: Dialect, folder: Path, report: Report
) -> list[Path]:
    files = []
    for index, each in enumerate(subnetworks):
        files.append(_write(subject, each, dialect, folder / f"{index}.onnx"))
        report(CUTTING / len(subnetworks))
    return files


def _write(subject: Subject, subnetwork: Subnetwork, dialect: Dialect, path: Path) -> Path:
    marked, quantization = cut_subnetwork(
        subject.marked, subject.quantization, subject.layers, subject.full, subnetwork
    )
    onnx.save(write_dialect(marked, quantization, dialect), path)
    return path


def _export_marked(
    network: nn.Module, architecture: Architecture, weight_bits: Literal[7, 8]
) -> tuple[ModelProto, Quantization]:
    quantized = prepare(network, weight_bits=weight_bits)
    generator = torch.Generator().manual_seed(SEED)
    set_mode(quantized, Mode.CALIBRATE)
    with torch.no_grad():
        quantized(torch.randn(4, *architecture.input_shape, generator=generator))
    for point in points_of(quantized):
        point.range = point.histogram.best_range(post_relu=point.post_relu)
    quantization = quantization_of(quantized, weight_bits=weight_bits, float_layers=())
    return export_marked(quantized, architecture.input_shape), quantization
