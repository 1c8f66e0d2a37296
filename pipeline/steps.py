"""The stages as the workspace sees them: what each one's work depends on, and which function does it.

A stage's module is imported only when there is work to do, so that a build with nothing to do answers at once.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.artifacts import Artifact, Checkpoint, Dialect, Precision
from pipeline.errors import RecipeError
from pipeline.export.result import read_export
from pipeline.load.baseline import read_gate_logits
from pipeline.models.digests import digest_of_checkpoint, digest_of_factory
from pipeline.profiling import Profiling
from pipeline.progress import Silent
from pipeline.quantize.result import quantization_drop
from pipeline.workspace.hashing import Json, sha256_of_file
from pipeline.workspace.store import Folder
from targets.base_images import tensorrt_for
from targets.capabilities import precisions_on_dla
from targets.device.files import SHARD
from targets.device.model.preprocess import Preprocessing
from targets.host import stand_in_for


@dataclass(frozen=True, kw_only=True)
class Steps(Profiling):
    """The stages of one target, each found in the workspace or done and kept there."""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What is considered: all that the target's GPU or CPU runs, or its DLA."""
        return precisions_on_dla(self.target) if self.recipe.package.dla else self.target.precisions

    @property
    def dialects(self) -> tuple[Dialect, ...]:
        """Those that the target reads: its own for int8, the float one for the other precisions."""
        wanted = {self.target.dialect if each is Precision.INT8 else Dialect.FLOAT for each in self.precisions}
        return tuple(dialect for dialect in Dialect if dialect in wanted)

    def exports(self, loaded: Folder, pruned: Folder, quantized: Folder) -> dict[Dialect, Folder]:
        """ONNX files of the dialects that the target reads.

        That for int8 is of the quantized network, the float one of the network before: weights that were trained for
        int8 are no float network's.
        """
        unquantized = pruned if self.recipe.prune.prunes else loaded
        return {
            dialect: self.export(loaded, unquantized if dialect is Dialect.FLOAT else quantized, dialect)
            for dialect in self.dialects
        }

    def load(self) -> Folder:
        recipe = self.recipe
        if recipe.checkpoint is None:
            raise RecipeError("no checkpoint: give --checkpoint FILE, or train one first with `deploy train`.")
        source = Path(recipe.checkpoint)
        inputs = {"checkpoint": digest_of_checkpoint(source), "data": self.dataset.fingerprint}
        if recipe.model is not None:
            inputs["model"] = digest_of_factory(recipe.model)
        options: dict[str, Json] = {
            "model": recipe.model,
            "classes": list(recipe.classes),
            "weights": recipe.weights,
            "preprocessing": recipe.preprocessing.model_dump(mode="json"),
        }

        def produce(folder: Path) -> None:
            from pipeline.load.load import load

            load(
                source,
                factory=recipe.model,
                dataset=self.dataset,
                preprocessing=recipe.preprocessing,
                weights=recipe.weights,
                progress=self.progress,
                folder=folder,
            )

        return self._obtain("load", "pipeline.load.load", inputs, options, produce)

    def prune(self, loaded: Folder) -> Folder:
        budget = self.recipe.prune
        options: dict[str, Json] = {"seed": self.recipe.seed}
        inputs, pace = self._with_data(loaded=loaded), None
        if budget.prunes:
            # A table counts by what is in it, not by where it lies.
            options |= budget.model_dump(mode="json", exclude={"table"})
            options["channel_multiple"] = self.target.channel_multiple
        if budget.by_clock:
            pace, inputs["table"] = self.pace(loaded)
            # Where the table's times can be confirmed, they are, and decide.
            options |= {"precision": pace.precision, "is_timed": pace.elsewhere is None}
        key = self.workspace.key("prune", module="pipeline.prune.prune", inputs=inputs, options=options)

        def produce(folder: Path) -> None:
            from pipeline.prune.prune import prune

            self.check_memory(loaded, since="prune")
            stopwatch = None if pace is None else self.stopwatch(loaded, pace)
            prune(
                Checkpoint(folder=loaded.path),
                self.dataset,
                read_preprocessing(loaded),
                recipe=budget,
                channel_multiple=self.target.channel_multiple,
                seed=self.recipe.seed,
                progress=self.progress,
                folder=folder,
                continuation=self.workspace.continuation(key),
                processes=self.recipe.nproc,
                pace=pace,
                time=None if stopwatch is None else stopwatch.time,
            )

        return self.workspace.obtain(key, produce)

    def quantize(self, loaded: Folder, pruned: Folder) -> Folder:
        quantize_recipe = self.recipe.quantize
        # Variant and rescue are derived from what comes out.
        options: dict[str, Json] = quantize_recipe.model_dump(mode="json", exclude={"saturation_safe", "fallback"}) | {
            "seed": self.recipe.seed,
            "weight_bits": self.weight_bits,
        }
        inputs = self._with_data(loaded=loaded, pruned=pruned)
        key = self.workspace.key("quantize", module="pipeline.quantize.quantize", inputs=inputs, options=options)

        def produce(folder: Path) -> None:
            from pipeline.quantize.quantize import quantize

            self.check_memory(loaded, since="quantize")
            quantize(
                Checkpoint(folder=pruned.path),
                Checkpoint(folder=loaded.path),
                self.dataset,
                read_preprocessing(loaded),
                qat_epochs=quantize_recipe.qat_epochs,
                weight_bits=7 if self.weight_bits == 7 else 8,
                keep_float=quantize_recipe.keep_float,
                seed=self.recipe.seed,
                progress=self.progress,
                folder=folder,
                continuation=self.workspace.continuation(key),
                processes=self.recipe.nproc,
            )

        return self.workspace.obtain(key, produce)

    def rescue(self, loaded: Folder, pruned: Folder, quantized: Folder) -> Folder | None:
        """The quantized network with the fewest layers in float that hold the budget; None where all of int8 does."""
        recipe = self.recipe
        if recipe.quantize.fallback == "none" or Precision.INT8 not in self.precisions:
            return None
        if quantization_drop(quantized.path) <= recipe.validate_.max_drop:
            return None
        is_timed = self.target.gpu is None and stand_in_for(self.target) is None
        target_facts: Json = {**asdict(self.target), "description": ""}
        options: dict[str, Json] = {
            "max_drop": recipe.validate_.max_drop,
            "timed": {"target": target_facts, "threads": recipe.threads} if is_timed else None,
        }

        def produce(folder: Path) -> None:
            from pipeline.quantize.mixed_precision import rescue
            from pipeline.quantize.toll import Toll

            network = Checkpoint(folder=quantized.path)
            toll = Toll(checkpoint=network, target=self.target, threads=recipe.threads, progress=self.progress)
            rescue(
                network,
                Checkpoint(folder=pruned.path),
                self.dataset,
                read_preprocessing(loaded),
                max_drop=recipe.validate_.max_drop,
                toll=toll if is_timed else None,
                progress=self.progress,
                folder=folder,
            )

        inputs = self._with_data(loaded=loaded, pruned=pruned, quantized=quantized)
        return self._obtain("quantize", "pipeline.quantize.mixed_precision", inputs, options, produce)

    def export(self, loaded: Folder, network: Folder, dialect: Dialect, *, stage: str = "export") -> Folder:
        def produce(folder: Path) -> None:
            from pipeline.export.export import export

            export(
                Checkpoint(folder=network.path),
                self.dataset,
                read_preprocessing(loaded),
                dialects=(dialect,),
                progress=self.progress,
                folder=folder,
            )

        inputs = self._with_data(loaded=loaded, network=network)
        return self._obtain(stage, "pipeline.export.export", inputs, {"dialects": [dialect]}, produce)

    def compile(
        self,
        loaded: Folder,
        baseline: Folder,
        models: Mapping[Dialect, Folder],
        *,
        precisions: tuple[Precision, ...] | None = None,
        weight_bits: int | None = None,
    ) -> Folder:
        """Candidates of every precision the target considers, timed beside the unpruned float baseline."""
        recipe, tensorrt = self.recipe, tensorrt_for(self.target, self.recipe.package.base_image)
        precisions, bits = precisions or self.precisions, weight_bits or self.weight_bits
        target_facts: Json = {**asdict(self.target), "description": ""}
        options: dict[str, Json] = {
            "target": target_facts,
            "threads": recipe.threads,
            "name": recipe.name,
            "version": recipe.version,
            "weight_bits": bits,
            "tensorrt": tensorrt,
            "dla": recipe.package.dla,
        }

        def produce(folder: Path) -> None:
            from pipeline.compile.compile import compile_candidates

            written = {dialect: read_export(folder.path)[dialect] for dialect, folder in models.items()}
            of_precision = dict.fromkeys(Precision, Dialect.FLOAT) | {Precision.INT8: self.target.dialect}
            compile_candidates(
                {precision: written[of_precision[precision]] for precision in precisions},
                read_export(baseline.path)[Dialect.FLOAT],
                target=self.target,
                dataset=self.dataset,
                preprocessing=read_preprocessing(loaded),
                name=recipe.name,
                version=recipe.version,
                classes=self.dataset.classes,
                weight_bits=bits,
                threads=recipe.threads,
                tensorrt=tensorrt,
                dla=recipe.package.dla,
                progress=self.progress,
                folder=folder,
            )

        inputs = self._with_data(
            loaded=loaded, baseline=baseline, **{dialect.value: models[dialect] for dialect in models}
        )
        return self._obtain("compile", "pipeline.compile.compile", inputs, options, produce)

    def saturation_safe(self, loaded: Folder, quantized: Folder, baseline: Folder) -> tuple[Folder, Folder, Folder]:
        """The same network with 7-bit weights, its ONNX file, and the artifact of that; all of stage `compile`."""

        def produce(folder: Path) -> None:
            from pipeline.quantize.saturation import derive

            derive(Checkpoint(folder=quantized.path), folder)

        network = self._obtain("compile", "pipeline.quantize.saturation", {"network": quantized.digest}, {}, produce)
        models = self.export(loaded, network, self.target.dialect, stage="compile")
        made = self.compile(
            loaded, baseline, {self.target.dialect: models}, precisions=(Precision.INT8,), weight_bits=7
        )
        return network, models, made

    def shard(self, loaded: Folder) -> Folder:
        """The gate's images, labels and float logits: all a later place needs to make the same report."""

        def produce(folder: Path) -> None:
            from pipeline.validate.shard import write_shard

            write_shard(
                read_gate_logits(loaded.path),
                self.dataset,
                read_preprocessing(loaded),
                progress=self.progress,
                folder=folder,
            )

        return self._obtain("validate", "pipeline.validate.shard", self._with_data(loaded=loaded), {}, produce)

    def predict(self, artifact: Artifact, shard: Folder) -> Folder:
        """The artifact's logits on the gate's images; judging them is another, instant, matter."""

        def produce(folder: Path) -> None:
            from pipeline.validate.measure import measure_artifact

            measure_artifact(artifact.folder, shard.path / SHARD, folder, progress=self.progress)

        inputs = {"manifest": sha256_of_file(artifact.manifest), "shard": shard.digest}
        return self._obtain("validate", "pipeline.validate.measure", inputs, {}, produce)

    def looking(self) -> "Steps":
        """The same steps, but none of them works: a missing one raises `NotDone`."""
        return replace(self, workspace=self.workspace.looking(), progress=Silent())

    def _with_data(self, **folders: Folder) -> dict[str, str]:
        return {name: folder.digest for name, folder in folders.items()} | {"data": self.dataset.fingerprint}

    def _obtain(
        self,
        stage: str,
        module: str,
        inputs: Mapping[str, str],
        options: Mapping[str, Json],
        produce: Callable[[Path], None],
    ) -> Folder:
        return self.workspace.obtain(self.workspace.key(stage, module=module, inputs=inputs, options=options), produce)


def read_preprocessing(loaded: Folder) -> Preprocessing:
    """The preprocessing that the load stage settled on."""
    return Preprocessing.from_dict(json.loads((loaded.path / "preprocessing.json").read_text()))
