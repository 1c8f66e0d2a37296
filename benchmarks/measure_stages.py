"""Measure time and memory of each stage of a build, next to the memory estimate of `deploy plan`:

    python benchmarks/measure_stages.py resnet50 --macs 0.7                  random weights, images of noise
    python benchmarks/measure_stages.py --checkpoint FILE --data FOLDER --speedup 1.3 --images 400

Each stage is a separate command in its own process; with --whole the last row is a build in one process. Peaks are the
kernel's peak resident memory. Accuracy is irrelevant here: there are few images, and it stops no stage.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noise_images import write_noise

from pipeline.artifacts import Checkpoint
from pipeline.data.readers import open_dataset
from pipeline.errors import GateFailed, GateUndecided, LatencyMissed
from pipeline.estimate.memory import MIB, Needs
from pipeline.recipe import Recipe

KIB_PER_MIB = 1024
GATE_SHARE = 5
"""Of so many images one is the gate's."""
ANSWERS = (0, *(error.exit_code for error in (GateFailed, GateUndecided, LatencyMissed)))
STAGES = ("load", "profile", "prune", "quantize", "export", "compile", "validate")


@dataclass(frozen=True, kw_only=True)
class Taken:
    seconds: float
    peak_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="resnet50", help="a published name (default: resnet50)")
    parser.add_argument("--checkpoint", type=Path, help="trained weights, with --data, instead of a name")
    parser.add_argument("--data", type=Path, help="train/<class>, val/<class>; only few images are used")
    parser.add_argument("--images", type=int, default=200, help="for training and gate together (default: 200)")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of recovery and of quantization-aware training")
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--whole", action="store_true", help="also run a build in one process")
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--macs", type=float, default=0.7)
    cut.add_argument("--speedup", type=float)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-deploy-") as name:
        folder = Path(name)
        if arguments.checkpoint is None:
            gate = arguments.images // GATE_SHARE
            checkpoint = write_noise(arguments.network, folder, training=arguments.images - gate, gate=gate)
        else:
            checkpoint = arguments.checkpoint
            link_few(arguments.data, folder / "data", arguments.images)
        build = ["--checkpoint", str(checkpoint), "--data", str(folder / "data")]
        budget = (
            ["--macs", str(arguments.macs)] if arguments.speedup is None else ["--speedup", str(arguments.speedup)]
        )
        budget += ["--epochs", str(arguments.epochs), "--qat-epochs", str(arguments.epochs)]
        budget += ["--nproc", str(arguments.nproc), "--max-drop", "100"]
        print("| stage | seconds | peak MiB | estimate MiB |\n|---|---|---|---|", flush=True)
        recipe = recipe_of(arguments)
        is_profiled = arguments.speedup is not None
        for stage, each in stages(build, budget, folder, is_profiled=is_profiled, is_whole=arguments.whole):
            estimate = estimated(stage, folder, recipe) / MIB
            print(f"| {stage} | {each.seconds:.0f} | {each.peak_mib:,.0f} | {estimate:,.0f} |", flush=True)


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    cut = {"macs": arguments.macs} if arguments.speedup is None else {"speedup": arguments.speedup}
    return Recipe.model_validate(
        {
            "prune": {**cut, "epochs": arguments.epochs},
            "quantize": {"qat_epochs": arguments.epochs},
            "nproc": arguments.nproc,
        }
    )


def estimated(stage: str, folder: Path, recipe: Recipe) -> int:
    """Return the bytes by the estimate of `deploy plan`."""
    (loaded,) = (folder / "workspace" / "load").iterdir()
    needs = Needs(Checkpoint(folder=loaded), open_dataset(str(folder / "data"), seed=recipe.seed), recipe)
    if stage == "profile":
        return needs.profile
    return max(needs.of(each) for each in STAGES if each != "profile") if stage == "all" else needs.of(stage)


def stages(
    build: list[str], budget: list[str], folder: Path, *, is_profiled: bool, is_whole: bool
) -> Iterator[tuple[str, Taken]]:
    """Run the stages in order, each on the results of the previous ones."""
    for stage in STAGES:
        if stage == "profile" and not is_profiled:
            continue
        command = ["build", "--no-image"] if stage == "validate" else [stage]
        options = build if stage == "profile" else [*build, *budget]
        yield stage, run([*command, *options, "--workspace", str(folder / "workspace")])
    if is_whole:
        yield "all", run(["build", "--no-image", *build, *budget, "--workspace", str(folder / "another")])


def run(command: list[str]) -> Taken:
    print(f"deploy {' '.join(command)}", file=sys.stderr, flush=True)
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "pipeline", *command], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in ANSWERS:
        sys.exit(f"deploy {command[0]} ended with {process.returncode}")
    return Taken(seconds=time.monotonic() - started, peak_mib=usage.ru_maxrss / KIB_PER_MIB)


def link_few(data: Path, folder: Path, images: int) -> None:
    """Return an equal number of images per class."""
    for split, share in (("train", 1 - 1 / GATE_SHARE), ("val", 1 / GATE_SHARE)):
        classes = sorted(path for path in (data / split).iterdir() if path.is_dir())
        for each in classes:
            (folder / split / each.name).mkdir(parents=True)
            for file in sorted(each.iterdir())[: max(1, round(share * images / len(classes)))]:
                (folder / split / each.name / file.name).symlink_to(file.resolve())


if __name__ == "__main__":
    main()
