"""Compare Edge Deploy's latency-driven pruning with manual torch-pruning, at the same measured int8 latency:

    python benchmarks/compare_pruning.py --data FOLDER --speedup 1.5 --epochs 10 --work FOLDER resnet20.pth …

Manual: see `benchmarks/uniform_pruning.py`; the mildest cut whose int8 model is as fast as Edge Deploy's, in multiples
of 8 or of 16, whichever keeps more multiply-accumulates. The rest is the same for both, with the pipeline's stages:
batch statistics, recovery by distillation (same epochs, seed and teacher), quantization, export. Latency: int8 in ONNX
Runtime, CPU time, batch 1, one thread, all models interleaved. Accuracy: the int8 models on the gate's images, paired.
A killed run can be resumed. Progress goes to stderr, the table as Markdown to stdout.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from uniform_pruning import Plan, cut, mildest, plans_of

from pipeline.artifacts import Checkpoint, Dialect
from pipeline.cli.prepare import prepare
from pipeline.cli.request import Request
from pipeline.data.sampling import logits_of_each
from pipeline.export.result import read_export
from pipeline.export.stage import export_one
from pipeline.latency.profile import subject_of
from pipeline.latency.subnetwork import Subnetwork, cut_subnetwork
from pipeline.load.stage import load
from pipeline.models.checkpoint import build_network, load_checkpoint, save_network
from pipeline.prune.recovery import estimate_statistics, recover
from pipeline.prune.stage import prune
from pipeline.quantize.stage import quantize_all
from pipeline.recipe import PruneRecipe
from pipeline.results import Loaded, Pruned
from pipeline.run import Run
from pipeline.training.allocator import keep_freed_memory
from pipeline.training.loop import seed_everything
from pipeline.workplace import Data, Workplace
from pipeline.workspace.hashing import Json, sha256_of_file
from pipeline.workspace.store import Folder
from targets.device.gate.judge import judge
from targets.device.gate.judgement import Judgement
from targets.dialects.write import write_dialect
from targets.runtimes.registry import RUNTIMES

SLACK = 0.02
"""The manual cut may be slower by this fraction, by which two timings of one model also differ."""
MULTIPLES = (8, 16)
REPEATS = 3
PLAN = "plan.json"
HEADER = (
    "| network | pruned by | latency int8 | × fp32 | speedup | MACs | parameters | top-1 | drop, 95 % interval |",
    "|---|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Contender:
    name: str
    checkpoint: Checkpoint
    model: Path


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--data", required=True, help="as `deploy build --data`")
    parser.add_argument("--speedup", type=float, nargs="+", required=True, help="speedup over the unpruned int8 model")
    parser.add_argument("--epochs", type=int, default=PruneRecipe().epochs, help="epochs of recovery, for both")
    parser.add_argument("--qat-epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", default="cpu")
    parser.add_argument(
        "--teacher", help="teacher checkpoint for both recoveries; default: the network before the cut"
    )
    parser.add_argument(
        "--work", type=Path, required=True, metavar="FOLDER", help="folder for finished work, to resume from"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another recipe option, e.g. prune.table=FILE"
    )
    arguments = parser.parse_args()
    lines: list[str] = []
    for checkpoint in arguments.checkpoints:
        for speedup in arguments.speedup:
            flags: dict[str, object] = {
                "checkpoint": checkpoint,
                "data": arguments.data,
                "targets": (arguments.target,),
                "seed": arguments.seed,
                "prune.speedup": speedup,
                "prune.epochs": arguments.epochs,
                "quantize.qat_epochs": arguments.qat_epochs,
                **dict(_option(text) for text in arguments.set),
            }
            teacher = None if arguments.teacher is None else Path(arguments.teacher)
            lines += compare(flags, work=arguments.work, teacher=teacher)
    print("\n".join((*HEADER, *lines)))


def compare(flags: dict[str, object], *, work: Path, teacher: Path | None) -> list[str]:
    """Yield the rows of the table; `flags` are dotted recipe keys."""
    nothing = work / "deploy.toml"
    nothing.parent.mkdir(parents=True, exist_ok=True)
    nothing.touch()
    request = Request(recipe_file=nothing, flags=flags, workspace=work, as_json=False, is_verbose=True)
    with prepare(request) as prepared:
        run = prepared.run(prepared.targets[0])
        loaded = load(run)
        ours = _contender("Edge Deploy", run, loaded, _ours(run, loaded, teacher))
        by_hand = _contender("torch-pruning", run, loaded, _by_hand(run, loaded, ours, teacher))
        return _table(run, loaded, ours, by_hand)


def _ours(run: Run, loaded: Loaded, teacher: Path | None) -> Folder:
    """Run stage `prune`; a different teacher is used only for the recovery after the cut."""
    if teacher is None:
        return prune(run, loaded).folder
    recipe = run.recipe.prune.model_copy(update={"epochs": 0})
    cutting = replace(run, recipe=run.recipe.model_copy(update={"prune": recipe}))
    return _recovered(run, loaded, prune(cutting, loaded).folder, teacher)


def _by_hand(run: Run, loaded: Loaded, ours: Contender, teacher: Path | None) -> Folder:
    """Choose the manual cut; it depends on measured times, so it is stored and reused."""

    def produce(folder: Path) -> None:
        checkpoint = loaded.checkpoint
        network, architecture = build_network(checkpoint), checkpoint.architecture
        plan = _as_fast(run, checkpoint, ours)
        pruned = cut(network, architecture, plan)
        seed_everything(run.recipe.seed)
        estimate_statistics(pruned, run.dataset.training, loaded.preprocessing)
        save_network(pruned, architecture, folder)
        (folder / PLAN).write_text(json.dumps(str(plan)))

    inputs = {"loaded": loaded.folder.digest, "model": sha256_of_file(ours.model), "data": run.dataset.fingerprint}
    inputs["cut"] = sha256_of_file(Path(__file__).with_name("uniform_pruning.py"))
    options: dict[str, Json] = {"seed": run.recipe.seed}
    key = run.key("by-hand", code="pipeline.prune.recovery", inputs=inputs, settings=options)
    return _recovered(run, loaded, run.workspace.obtain(key, produce), teacher)


def _as_fast(run: Run, checkpoint: Checkpoint, ours: Contender) -> Plan:
    """Return the mildest cut that is as fast as Edge Deploy's; of several, the one with most multiply-accumulates."""
    network, architecture = build_network(checkpoint), checkpoint.architecture
    subject = subject_of(checkpoint, multiple=run.target.channel_multiple, weight_bits=8)
    found: list[tuple[int, Plan]] = []
    with tempfile.TemporaryDirectory(prefix="edge-deploy-") as name:
        scratch = Path(name)

        def is_fast_enough(plan: Plan) -> bool:
            candidate = cut(network, architecture, plan)
            widths = {root: candidate.get_parameter(f"{root}.weight").shape[0] for root in subject.full}
            # Exporting takes a hundred times as long, and the time depends only on the widths.
            carved = cut_subnetwork(
                subject.marked, subject.quantization, subject.layers, subject.full, Subnetwork(widths=widths)
            )
            onnx.save(write_dialect(*carved, run.target.dialect), scratch / "candidate.onnx")
            target, its = _latencies(run, [ours.model, scratch / "candidate.onnx"])
            run.progress.line(f"{plan}: {its:.4f} ms, ours {target:.4f} ms")
            return its <= target * (1 + SLACK)

        for is_everywhere in (False, True):
            for multiple in MULTIPLES:
                plans = plans_of(network, architecture, round_to=multiple, is_everywhere=is_everywhere)
                plan = mildest(plans, is_fast_enough)
                if plan is not None:
                    save_network(cut(network, architecture, plan), architecture, scratch / f"{multiple}")
                    found.append((Checkpoint(folder=scratch / f"{multiple}").cost.macs, plan))
            if found:
                return max(found, key=lambda pair: pair[0])[1]
    raise SystemExit(
        f"no uniform ratio makes {architecture.name} as fast as Edge Deploy's cut; use a smaller --speedup."
    )


def _recovered(run: Run, loaded: Loaded, pruned: Folder, teacher: Path | None) -> Folder:
    """Recover the cut network in stage folder `pruned` as stage `prune` does."""
    epochs, seed = run.recipe.prune.epochs, run.recipe.seed
    if epochs == 0:
        return pruned
    inputs = {"loaded": loaded.folder.digest, "pruned": pruned.digest, "data": run.dataset.fingerprint}
    if teacher is not None:
        inputs["teacher"] = sha256_of_file(teacher)
    options: dict[str, Json] = {"epochs": epochs, "seed": seed}

    def produce(folder: Path) -> None:
        seed_everything(seed)
        network = build_network(Checkpoint(folder=pruned.path))
        recover(
            network,
            build_network(_teacher(teacher, loaded, run)),
            Data(dataset=run.dataset, preprocessing=loaded.preprocessing),
            epochs=epochs,
            seed=seed,
            at=Workplace(folder=Path(), progress=run.progress, continuation=run.workspace.continuation(key)),
        )
        save_network(network, Checkpoint(folder=pruned.path).architecture, folder)
        if (pruned.path / PLAN).exists():
            (folder / PLAN).write_text((pruned.path / PLAN).read_text())

    key = run.key("recovered", code="pipeline.prune.recovery", inputs=inputs, settings=options)
    return run.workspace.obtain(key, produce)


def _teacher(teacher: Path | None, loaded: Loaded, run: Run) -> Checkpoint:
    if teacher is None:
        return loaded.checkpoint
    size = loaded.checkpoint.architecture.input_shape[1:]
    folder = run.workspace.root / "tmp" / f"teacher-{sha256_of_file(teacher)[:16]}"
    load_checkpoint(teacher, factory=None, classes=run.dataset.classes, input_size=size, folder=folder)
    return Checkpoint(folder=folder)


def _contender(name: str, run: Run, loaded: Loaded, pruned: Folder) -> Contender:
    """Run the remaining stages, which are the same for all."""
    dialect = run.target.dialect
    quantized = quantize_all(run, loaded, Pruned(folder=pruned))
    exported = export_one(run, loaded, quantized, dialect)
    if (pruned.path / PLAN).exists():
        name = f"{name}, {json.loads((pruned.path / PLAN).read_text())}"
    return Contender(name, Checkpoint(folder=quantized.path), read_export(exported.path)[dialect].path)


def _table(run: Run, loaded: Loaded, ours: Contender, by_hand: Contender) -> list[str]:
    original = loaded.checkpoint
    exported = export_one(run, loaded, loaded.folder, Dialect.FLOAT)
    # Only calibrated: it is needed for its latency, and unpruned it needs no recovery.
    calibrated = run.recipe.quantize.model_copy(update={"qat_epochs": 0})
    plain = replace(run, recipe=run.recipe.model_copy(update={"quantize": calibrated}))
    whole = _contender("nothing, int8", plain, loaded, loaded.folder)
    baseline = Contender("nothing, fp32", original, read_export(exported.path)[Dialect.FLOAT].path)
    contenders = (baseline, whole, by_hand, ours)
    rounds = [_latencies(run, [each.model for each in contenders]) for _ in range(REPEATS)]
    times = [statistics.median(each) for each in zip(*rounds, strict=True)]
    answers = _answers(run, loaded, contenders)
    labels, classes = run.dataset.gate.labels, run.dataset.classes
    rows = []
    for each, time, logits in zip(contenders, times, answers, strict=True):
        against = judge(labels, answers[0], logits, classes=classes, max_drop=1.0)
        drop = "" if each is baseline else _drop(against)
        rows.append(
            f"| {original.architecture.name} | {each.name} | {time:.3f} ms | {time / times[0]:.3f} | "
            f"{times[1] / time:.2f} | {each.checkpoint.cost.macs / 1e6:.1f} M | {each.checkpoint.cost.parameters:,} | "
            f"{against.artifact_top1:.2%} | {drop} |"
        )
    paired = judge(labels, answers[2], answers[3], classes=classes, max_drop=1.0)
    between = f"{times[3] / times[2]:.3f} × its latency"
    rows.append(
        f"| {original.architecture.name} | ours against torch-pruning | {between} | | | | | | {_drop(paired)} |"
    )
    return rows


def _drop(judged: Judgement) -> str:
    low, high = judged.drop_interval_points
    return f"{judged.drop_points:+.2f} [{low:+.2f}, {high:+.2f}] ({judged.lost} lost, {judged.won} won)"


def _latencies(run: Run, models: Sequence[Path]) -> list[float]:
    """Return CPU milliseconds, all measured in one run."""
    runtime = RUNTIMES[run.target.runtime]
    options = runtime.session_options(run.target, threads=1)
    return [latency.cpu_ms for latency in runtime.time(list(models), options=options)]


def _answers(run: Run, loaded: Loaded, contenders: Sequence[Contender]) -> list[NDArray[np.float32]]:
    """Return logits [N, C] on the gate's images."""
    runtime = RUNTIMES[run.target.runtime]
    options = runtime.session_options(run.target, threads=1)
    sessions = [runtime.open(each.model, options=options) for each in contenders]
    return logits_of_each(sessions, run.dataset.gate, loaded.preprocessing, run.progress)


def _option(text: str) -> tuple[str, object]:
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


if __name__ == "__main__":
    main()
