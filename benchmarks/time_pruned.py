"""Time published networks after pruning and quantization; weights are random, so only speed is measured:

    python benchmarks/time_pruned.py resnet50 --macs 0.5                 against torch-pruning's uniform ratio
    python benchmarks/time_pruned.py resnet50 --speedup 2                by a latency table, measured first (minutes)

No recovery: it changes no widths. Ratios are to the unpruned fp32 model; ONNX Runtime, CPU time, batch 1, one thread,
all models of a network interleaved, medians of three runs.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from random_artifact import quantized_graph, with_random_statistics
from torch import nn
from uniform_pruning import Plan, cut, inner_layers, mildest

from pipeline.artifacts import Architecture, Checkpoint, Dialect
from pipeline.cli.console import progress_for
from pipeline.latency.profile import profile
from pipeline.latency.subnetwork import Subnetwork, removable_blocks, sites
from pipeline.latency.table import FILE, read_table
from pipeline.models.checkpoint import save_network
from pipeline.models.cost import cost_of
from pipeline.models.resnet import build_resnet
from pipeline.models.surgery import channel_groups, remove_channels
from pipeline.models.zoo import published_architecture
from pipeline.prune import candidates as proposals
from pipeline.prune.by_cost import allocate
from pipeline.prune.by_latency import Clock
from pipeline.prune.importance import block_importance, channel_importance
from pipeline.prune.report import losses_of
from pipeline.training.allocator import keep_freed_memory
from targets.runtimes.registry import RUNTIMES
from targets.target import find_target

IMAGES = 8
REPEATS = 3
RATIOS = 32
TARGET = find_target("cpu")
HEADER = (
    "| network | pruned by | precision | MACs | CPU time | × fp32 | GMAC/s | predicted |",
    "|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Variant:
    name: str
    network: nn.Module
    dialect: Dialect = TARGET.dialect
    predicted_ms: float | None = None


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="a published name, e.g. resnet50")
    parser.add_argument("--macs", type=float, nargs="*", default=[], help="shares of multiply-accumulates to keep")
    parser.add_argument("--speedup", type=float, nargs="*", default=[], help="over the unpruned int8 model")
    parser.add_argument(
        "--table", type=Path, metavar="FOLDER", help="folder to store latency tables in; default: none"
    )
    arguments = parser.parse_args()
    print("\n".join(HEADER), flush=True)
    for name in arguments.networks:
        with tempfile.TemporaryDirectory(prefix="edge-deploy-") as scratch:
            tables = arguments.table or Path(scratch)
            for line in rows(name, arguments.macs, arguments.speedup, tables, Path(scratch)):
                print(line, flush=True)


def rows(name: str, macs: list[float], speedups: list[float], tables: Path, scratch: Path) -> Iterator[str]:
    architecture = published_architecture(name, classes=tuple(f"class{index}" for index in range(1000)))
    torch.manual_seed(0)
    network = with_random_statistics(build_resnet(architecture))
    images = np.random.default_rng(0).standard_normal((IMAGES, *architecture.input_shape)).astype(np.float32)
    variants = [Variant("nothing", network, Dialect.FLOAT), Variant("nothing", network)]
    for share in macs:
        variants.append(Variant(f"torch-pruning, {share:g} of the MACs", uniform(network, architecture, share)))
        variants.append(Variant(f"Edge Deploy, `--macs {share:g}`", allocated(network, architecture, images, share)))
    variants += timed(network, architecture, images, speedups, tables) if speedups else []
    files = [scratch / f"{index}.onnx" for index in range(len(variants))]
    for variant, file in zip(variants, files, strict=True):
        onnx.save(quantized_graph(variant.network, images, variant.dialect), file)
    runtime = RUNTIMES[TARGET.runtime]
    options = runtime.session_options(TARGET, threads=1)
    runs = [[latency.cpu_ms for latency in runtime.time(files, options=options)] for _ in range(REPEATS)]
    times = [statistics.median(each) for each in zip(*runs, strict=True)]
    for variant, time in zip(variants, times, strict=True):
        cost = cost_of(variant.network, architecture.input_shape).macs
        precision = "fp32" if variant.dialect is Dialect.FLOAT else "int8"
        predicted = "" if variant.predicted_ms is None else f"{variant.predicted_ms:.2f} ms"
        yield (
            f"| {name} | {variant.name} | {precision} | {cost / 1e6:,.0f} M | {time:.2f} ms | {time / times[0]:.3f} | "
            f"{cost / time / 1e6:.0f} | {predicted} |"
        )


def uniform(network: nn.Module, architecture: Architecture, share: float) -> nn.Module:
    """Prune with one ratio inside all blocks, in multiples of 16."""
    blocks, budget = len(inner_layers(architecture)), share * cost_of(network, architecture.input_shape).macs
    plans = [Plan(ratios=(step / RATIOS,) * blocks, round_to=16) for step in range(1, RATIOS)]
    plan = mildest(
        plans, lambda plan: cost_of(cut(network, architecture, plan), architecture.input_shape).macs <= budget
    )
    if plan is None:
        raise SystemExit(f"torch-pruning cannot reach {share:g} of the MACs inside the blocks; use a larger share.")
    return cut(network, architecture, plan)


def allocated(network: nn.Module, architecture: Architecture, images: np.ndarray, share: float) -> nn.Module:
    """Prune as stage `prune` does."""
    shape = architecture.input_shape
    groups = channel_groups(network, shape)
    scores = channel_importance(network, groups, [torch.from_numpy(images)], seed=0)
    removal = allocate(
        network,
        groups,
        scores,
        input_shape=shape,
        budget="macs",
        share=share,
        channel_multiple=TARGET.channel_multiple,
    )
    return remove_channels(network, shape, removal)


def timed(
    network: nn.Module, architecture: Architecture, images: np.ndarray, speedups: list[float], tables: Path
) -> Iterator[Variant]:
    """Prune to a time as stage `prune` does."""
    file = tables / architecture.name / FILE
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        save_network(network, architecture, file.parent)
        checkpoint, progress = Checkpoint(folder=file.parent), progress_for(is_verbose=True)
        profile(checkpoint, target=TARGET, threads=1, weight_bits=8, progress=progress, folder=file.parent)
    table = read_table(file)
    groups = channel_groups(network, architecture.input_shape)
    full = {group.root: group.width for group in groups}
    batch = [torch.from_numpy(images)]
    scores = channel_importance(network, groups, batch, seed=0)
    blocks = block_importance(network, removable_blocks(architecture), batch)
    losses = losses_of(groups, scores, blocks, table.grid, images=len(images))
    clock = Clock(table, "int8", sites(network, groups), losses)
    for speedup in speedups:
        chosen = clock.fit(clock.latency_us(Subnetwork(widths=full)) / speedup)
        left, _ = proposals.cut(network, architecture, groups, scores, chosen)
        yield Variant(f"Edge Deploy, `--speedup {speedup:g}`", left, predicted_ms=clock.latency_us(chosen) / 1e3)


if __name__ == "__main__":
    main()
