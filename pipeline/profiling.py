"""The latency table as the workspace sees it: measured once per target, machine, runtime and options, or imported."""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts import Artifact, Checkpoint, Precision
from pipeline.delivery import Delivery
from pipeline.latency.table import FILE, LatencyTable, Pace, Timing, read_table
from pipeline.progress import reporting
from pipeline.workspace.hashing import Json, sha256_of_file
from pipeline.workspace.store import Folder
from targets.device.model.cpu import instruction_set, processor_name, saturates_8bit
from targets.device.model.manifest import read_manifest
from targets.host import stand_in_for
from targets.target import Target

if TYPE_CHECKING:
    # It imports PyTorch, which a build with nothing to do need not wait for.
    from pipeline.latency.stopwatch import Stopwatch

TIMING = "timing.json"


@dataclass(frozen=True, kw_only=True)
class Profiling(Delivery):
    """What decisions by the clock need, beside the stages."""

    @property
    def weight_bits(self) -> int:
        """The recipe's, or what this machine's int8 kernels hold without saturating; a GPU's sums never do."""
        if self.recipe.quantize.weight_bits != "auto":
            return self.recipe.quantize.weight_bits
        return 7 if self.target.gpu is None and saturates_8bit() else 8

    def check_memory(self, loaded: Folder, *, since: str) -> None:
        """Raise `NotEnoughMemory` where a stage from `since` on needs more than this process may use."""
        from pipeline.estimate.memory_check import check_memory_quickly

        check_memory_quickly(Checkpoint(folder=loaded.path), self.dataset, self.recipe, since=since)

    def profile(self, loaded: Folder) -> Folder:
        """The table of the loaded network on this machine; it hangs on the network's shapes, not on its weights."""
        shapes = json.loads(Checkpoint(folder=loaded.path).architecture.to_json())
        target_facts: Json = {**asdict(self.target), "description": ""}
        options: dict[str, Json] = {
            "architecture": {**shapes, "classes": len(shapes["classes"])},
            "target": target_facts,
            "threads": self.recipe.threads,
            "weight_bits": self.weight_bits,
            # Asked of its package: importing the runtime takes longer than a build with nothing to do.
            "runtime": "" if self.target.gpu is not None else version(self.target.runtime),
            "processor": processor_name(),
            "instruction_set": instruction_set(),
        }

        def produce(folder: Path) -> None:
            from pipeline.latency.profile import profile

            profile(
                Checkpoint(folder=loaded.path),
                target=self.target,
                threads=self.recipe.threads,
                weight_bits=self.weight_bits,
                progress=self.progress,
                folder=folder,
            )

        key = self.workspace.key("profile", module="pipeline.latency.profile", inputs={}, options=options)
        return self.workspace.obtain(key, produce)

    def pace(self, loaded: Folder) -> tuple[Pace, str]:
        """The recipe's table, or this machine's, and the digest that stands for it in the keys of what it decides."""
        precision = priced(self.target)
        given = self.recipe.prune.table
        if given is not None:
            table = read_table(Path(given))
            pace = Pace(
                table=table,
                precision=precision,
                target=self.target.name,
                source=given,
                elsewhere=self._elsewhere(table),
            )
            return pace, sha256_of_file(Path(given))
        found = self.profile(loaded)
        table = read_table(found.path / FILE)
        pace = Pace(table=table, precision=precision, target=self.target.name, source="the latency table")
        return pace, found.digest

    def stopwatch(self, loaded: Folder, pace: Pace) -> "Stopwatch | None":
        """Of the loaded network, on this machine; None where the table is not about it."""
        if pace.elsewhere is not None:
            return None
        from pipeline.latency.stopwatch import Stopwatch

        return Stopwatch(
            Checkpoint(folder=loaded.path),
            target=self.target,
            precision=pace.precision,
            weight_bits=7 if self.weight_bits == 7 else 8,
            threads=pace.table.threads,
        )

    def clocked(self, loaded: Folder, artifact: Artifact, *, again: bool) -> Timing | None:
        """The artifact beside the unpruned network in the same precision, which stage `compile` does not time.

        Timed once, or `again`; None where this machine's clock says nothing about the target.
        """
        pace, _ = self.pace(loaded)
        if pace.elsewhere is not None or artifact.candidate.latency is None:
            return None
        manifest = read_manifest(artifact.folder)
        options: dict[str, Json] = {
            "precision": pace.precision,
            "threads": pace.table.threads,
            "weight_bits": self.weight_bits,
            "target": self.target.name,
            "machine": dict(pace.table.machine),
            "runtime": pace.table.runtime,
        }

        def produce(folder: Path) -> None:
            stopwatch = self.stopwatch(loaded, pace)
            assert stopwatch is not None
            with reporting(self.progress, "time the artifact") as report:
                timing = stopwatch.time_file(artifact.folder / manifest.model_file, report)
            (folder / TIMING).write_text(json.dumps(asdict(timing), indent=2))

        inputs = {"loaded": loaded.digest, "model": manifest.model_sha256}
        key = self.workspace.key("compile", module="pipeline.latency.stopwatch", inputs=inputs, options=options)
        if again and not self.workspace.only_look:
            self.workspace.forget(key)
        return Timing(**json.loads((self.workspace.obtain(key, produce).path / TIMING).read_text()))

    def _elsewhere(self, table: LatencyTable) -> str | None:
        """Why an imported table is not about this machine; None where it is."""
        if self.target.gpu is not None or stand_in_for(self.target) is not None:
            return f"{self.target.name} is timed where it runs"
        here = {"processor": processor_name(), "instruction_set": instruction_set()}
        if dict(table.machine) != here:
            there = ", ".join(table.machine.values())
            return f"the table is of {there}, this machine is {', '.join(here.values())}"
        runtime = f"onnxruntime {version(self.target.runtime)}"
        return None if table.runtime == runtime else f"the table is of {table.runtime}, here is {runtime}"


def priced(target: Target) -> str:
    """The precision whose time is asked for: int8 where the target considers it."""
    return (Precision.INT8 if Precision.INT8 in target.precisions else target.precisions[0]).value
