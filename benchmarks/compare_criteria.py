"""Compare importance criteria on real data; each prunes to the same time by the same table and recovers the same way:

    python benchmarks/compare_criteria.py --data FOLDER --table TABLE.json --speedup 1.5 CHECKPOINT

Edge Deploy's criterion (`pipeline.prune.importance`) runs once per factor of `pipeline.prune.candidates`; the others
are in `benchmarks/criteria.py`, where a block's importance is the sum of its channels'. The time is the table's
(`deploy profile --output`). Top-1 on the gate's images, its drop from the float network, and the 95 % interval of the
paired difference. Progress goes to stderr, the table as Markdown to stdout.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from criteria import CRITERIA, Labelled
from torch import nn

from pipeline.artifacts import Checkpoint
from pipeline.data.batches import Batches
from pipeline.data.readers import Dataset, open_dataset, preprocessing_from
from pipeline.data.sampling import spread
from pipeline.latency.subnetwork import Subnetwork, removable_blocks, sites
from pipeline.latency.table import LatencyTable, read_table
from pipeline.models.checkpoint import build_network, load_checkpoint
from pipeline.models.surgery import channel_groups
from pipeline.progress import Silent
from pipeline.prune.by_latency import Clock, Losses
from pipeline.prune.candidates import BLOCK_FACTORS, cut
from pipeline.prune.importance import Scores, block_importance, channel_importance
from pipeline.prune.prune import IMPORTANCE_IMAGES
from pipeline.prune.recovery import estimate_statistics, recover
from pipeline.prune.report import losses_of
from pipeline.recipe import PreprocessingRecipe
from pipeline.training.allocator import keep_freed_memory
from pipeline.training.evaluation import divergence, logits_of
from pipeline.training.loop import seed_everything
from pipeline.workplace import Data, Workplace
from targets.device.gate.judge import judge
from targets.device.model.preprocess import Preprocessing

HEADER = (
    "| criterion | blocks left out | widths cut | divergence | top-1, cut | top-1, recovered | drop, 95 % interval |",
    "|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Subject:
    checkpoint: Checkpoint
    network: nn.Module
    dataset: Dataset
    preprocessing: Preprocessing
    table: LatencyTable
    speedup: float
    epochs: int
    images: int


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--data", required=True, help="as `deploy build --data`")
    parser.add_argument("--table", required=True, type=Path, help="latency table of `deploy profile --output`")
    parser.add_argument("--speedup", required=True, type=float)
    parser.add_argument("--epochs", type=int, default=3, help="epochs of recovery (3)")
    parser.add_argument("--images", type=int, default=15_000, help="training images for the recovery (15000)")
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data)
    with tempfile.TemporaryDirectory() as folder:
        load_checkpoint(
            arguments.checkpoint, factory=None, classes=dataset.classes, input_size=None, folder=Path(folder)
        )
        checkpoint = Checkpoint(folder=Path(folder))
        architecture = checkpoint.architecture
        preprocessing, _ = preprocessing_from(
            PreprocessingRecipe(), family=architecture.family, input_size=architecture.input_shape[1:]
        )
        subject = Subject(
            checkpoint, build_network(checkpoint), dataset, preprocessing, read_table(arguments.table),
            arguments.speedup, arguments.epochs, arguments.images,
        )  # fmt: skip
        print("\n".join(HEADER), flush=True)
        for row in compare(subject):
            print(row, flush=True)


def compare(subject: Subject) -> Iterator[str]:
    """Yield the rows of the table, Edge Deploy's first."""
    network, architecture = subject.network, subject.checkpoint.architecture
    groups = channel_groups(network, architecture.input_shape)
    blocks = removable_blocks(architecture)
    sample = Batches(
        subject.dataset.training.subset(spread(len(subject.dataset.training), IMPORTANCE_IMAGES)),
        subject.preprocessing, batch_size=64, shuffle=True,
    )  # fmt: skip
    batches: Labelled = list(sample.epoch(0))
    images = [each for each, _ in batches]
    scores = channel_importance(network, groups, images, seed=0)
    changes = block_importance(network, blocks, images)
    for factor in BLOCK_FACTORS:
        weighed = {block: factor * change for block, change in changes.items()}
        yield _row(f"ours, blocks × {factor:g}", subject, scores, weighed)
    for name, criterion in CRITERIA.items():
        scores = criterion(network, groups, batches)
        inside = {
            block: sum(float(scores[group.root].sum()) for group in groups if group.root.startswith(f"{block}."))
            for block in blocks
        }
        yield _row(name, subject, scores, inside)


def _row(name: str, subject: Subject, scores: Scores, blocks: dict[str, float]) -> str:
    network, chosen = _cut(subject, losses_of(
        channel_groups(subject.network, subject.checkpoint.architecture.input_shape),
        scores, blocks, subject.table.grid, images=1,
    ), scores)  # fmt: skip
    gate = Batches(subject.dataset.gate, subject.preprocessing)
    labels, classes = subject.dataset.gate.labels, subject.dataset.classes
    wanted, unrecovered = logits_of(subject.network, gate), logits_of(network, gate)
    few = subject.dataset.training.subset(spread(len(subject.dataset.training), subject.images))
    seed_everything(0)
    recover(
        network,
        subject.network,
        Data(dataset=replace(subject.dataset, training=few), preprocessing=subject.preprocessing),
        epochs=subject.epochs,
        seed=0,
        at=Workplace(folder=Path(), progress=Silent()),
    )
    after = judge(labels, wanted, logits_of(network, gate), classes=classes, max_drop=1.0)
    low, high = after.drop_interval_points
    full = subject.table.full
    gone = tuple(f"{block}." for block in chosen.removed)
    narrowed = sum(chosen.widths[root] < full[root] for root in full if not root.startswith(gone or ("-",)))
    print(f"{name}: {sorted(chosen.removed)}", file=sys.stderr)
    return (
        f"| {name} | {len(chosen.removed)} | {narrowed} | {divergence(unrecovered, wanted):.3f} "
        f"| {(unrecovered.argmax(1) == labels).mean():.2%} | {after.artifact_top1:.2%} "
        f"| {after.drop_points:+.2f} [{low:+.2f}, {high:+.2f}] |"
    )


def _cut(subject: Subject, losses: Losses, scores: Scores) -> tuple[nn.Module, Subnetwork]:
    """Return the network with the least loss within the time, with batch statistics measured again."""
    architecture = subject.checkpoint.architecture
    groups = channel_groups(subject.network, architecture.input_shape)
    clock = Clock(subject.table, "int8", sites(subject.network, groups), losses)
    full = Subnetwork(widths=dict(subject.table.full))
    chosen = clock.fit(clock.latency_us(full) / subject.speedup)
    left, _ = cut(subject.network, architecture, groups, scores, chosen)
    estimate_statistics(left, subject.dataset.training, subject.preprocessing)
    return left, chosen


if __name__ == "__main__":
    main()
