"""The latency table in the workspace: measured once per target, machine, runtime and options, or imported."""

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts import Artifact, Precision
from pipeline.latency.table import FILE, LatencyTable, Pace, Timing, read_table
from pipeline.progress import reporting
from pipeline.results import Loaded
from pipeline.run import Run
from pipeline.workplace import Workplace
from pipeline.workspace.hashing import Json, sha256_of_file
from pipeline.workspace.store import Folder
from targets.device.model.cpu import instruction_set, processor_name
from targets.device.model.manifest import read_manifest
from targets.target import Target

if TYPE_CHECKING:
    # It imports PyTorch, which a build with nothing to do does not need.
    from pipeline.latency.stopwatch import Stopwatch

TIMING = "timing.json"


def profile(run: Run, loaded: Loaded) -> Folder:
    """Return the table of the loaded network on this machine; it depends on shapes, not on weights."""
    shapes = json.loads(loaded.checkpoint.architecture.to_json())
    settings: dict[str, Json] = {
        "architecture": {**shapes, "classes": len(shapes["classes"])},
        "target": run.target_facts,
        "threads": run.recipe.threads,
        "weight_bits": run.weight_bits,
        # Read from the package metadata: importing the runtime takes longer than a build with nothing to do.
        "runtime": "" if run.target.gpu is not None else version(run.target.runtime),
        "processor": processor_name(),
        "instruction_set": instruction_set(),
    }

    def work(at: Workplace) -> None:
        from pipeline.latency.profile import profile as measure

        measure(
            loaded.checkpoint,
            target=run.target,
            threads=run.recipe.threads,
            weight_bits=run.weight_bits,
            progress=at.progress,
            folder=at.folder,
        )

    return run.obtain("profile", code="pipeline.latency.profile", inputs={}, settings=settings, work=work)


def pace(run: Run, loaded: Loaded) -> tuple[Pace, str]:
    """Return the recipe's table, or this machine's, and its digest for the keys of stages that use it."""
    precision, given = precision_to_time(run.target), run.recipe.prune.table
    if given is not None:
        table = read_table(Path(given))
        elsewhere = _elsewhere(run, table)
        found = Pace(table=table, precision=precision, target=run.target.name, source=given, elsewhere=elsewhere)
        return found, sha256_of_file(Path(given))
    profiled = profile(run, loaded)
    table = read_table(profiled.path / FILE)
    here = Pace(table=table, precision=precision, target=run.target.name, source="the latency table")
    return here, profiled.digest


def stopwatch(run: Run, loaded: Loaded, asked: Pace) -> "Stopwatch | None":
    """Return a stopwatch for the loaded network on this machine; None if the table is for another machine."""
    if asked.elsewhere is not None:
        return None
    from pipeline.latency.stopwatch import Stopwatch

    return Stopwatch(
        loaded.checkpoint,
        target=run.target,
        precision=asked.precision,
        weight_bits=7 if run.weight_bits == 7 else 8,
        threads=asked.table.threads,
    )


def time_artifact(run: Run, loaded: Loaded, artifact: Artifact, *, again: bool) -> Timing | None:
    """Time the artifact beside the unpruned network in the same precision, which stage `compile` does not time.

    The result is kept, unless `again`; None if this machine's times are not valid for the target.
    """
    asked, _ = pace(run, loaded)
    if asked.elsewhere is not None or artifact.candidate.latency is None:
        return None
    manifest = read_manifest(artifact.folder)
    settings: dict[str, Json] = {
        "precision": asked.precision,
        "threads": asked.table.threads,
        "weight_bits": run.weight_bits,
        "target": run.target.name,
        "machine": dict(asked.table.machine),
        "runtime": asked.table.runtime,
    }

    def work(at: Workplace) -> None:
        watch = stopwatch(run, loaded, asked)
        assert watch is not None
        with reporting(at.progress, "time the artifact") as report:
            timing = watch.time_file(artifact.folder / manifest.model_file, report)
        (at.folder / TIMING).write_text(json.dumps(asdict(timing), indent=2))

    inputs = {"loaded": loaded.folder.digest, "model": manifest.model_sha256}
    key = run.key("compile", code="pipeline.latency.stopwatch", inputs=inputs, settings=settings)
    if again and not run.workspace.only_look:
        run.workspace.forget(key)
    return Timing(**json.loads((run.obtain_by(key, work).path / TIMING).read_text()))


def precision_to_time(target: Target) -> str:
    """Return the precision to time: int8 if the target supports it."""
    return (Precision.INT8 if Precision.INT8 in target.precisions else target.precisions[0]).value


def _elsewhere(run: Run, table: LatencyTable) -> str | None:
    """Return why an imported table is not for this machine, or None."""
    if not run.is_timed_here:
        return f"{run.target.name} can only be timed on its own platform"
    here = {"processor": processor_name(), "instruction_set": instruction_set()}
    if dict(table.machine) != here:
        there = ", ".join(table.machine.values())
        return f"the table is for {there}, this machine is {', '.join(here.values())}"
    runtime = f"onnxruntime {version(run.target.runtime)}"
    return None if table.runtime == runtime else f"the table is for {table.runtime}, this machine has {runtime}"
