"""The stages as the workspace sees them: what each one's work depends on, and which function does it.

A stage's module is imported only when there is work to do, so that a build with nothing to do answers at once.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Artifact, Checkpoint, Dialect, Image, Judge, Precision
from pipeline.data.dataset import Dataset
from pipeline.errors import RecipeError
from pipeline.exported import read_export
from pipeline.given import digest_of_checkpoint, digest_of_factory
from pipeline.hashing import Json, sha256_of_file, sha256_of_folder, sha256_of_json
from pipeline.image import is_present, read_image
from pipeline.looks import look, looks_at
from pipeline.progress import Progress, Silent
from pipeline.publish import is_published, publish
from pipeline.recipe import Recipe
from pipeline.shipped import shipped
from pipeline.workspace import Folder, Workspace
from targets import device
from targets.base import Target
from targets.buildable import check_buildable
from targets.device.cpu import saturates_8bit
from targets.device.manifest import read_manifest
from targets.device.preprocess import Preprocessing

RECIPE_LABEL = "dev.edge-deploy.recipe.sha256"


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The stages of one target, each found in the workspace or done and kept there."""

    recipe: Recipe
    target: Target
    dataset: Dataset
    workspace: Workspace
    progress: Progress

    @property
    def weight_bits(self) -> int:
        """The recipe's, or what this machine's int8 kernels hold without saturating; a GPU's sums never do."""
        if self.recipe.quantize.weight_bits != "auto":
            return self.recipe.quantize.weight_bits
        return 7 if self.target.gpu is None and saturates_8bit() else 8

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
            "preprocessing": recipe.preprocessing.model_dump(mode="json"),
        }

        def produce(folder: Path) -> None:
            from pipeline.load import load

            load(
                source,
                factory=recipe.model,
                dataset=self.dataset,
                preprocessing=recipe.preprocessing,
                progress=self.progress,
                folder=folder,
            )

        return self._obtain("load", "pipeline.load", inputs, options, produce)

    def prune(self, loaded: Folder) -> Folder:
        budget = self.recipe.prune
        options: dict[str, Json] = {"seed": self.recipe.seed}
        if budget.macs < 1 or budget.params < 1:
            options |= budget.model_dump(mode="json") | {"channel_multiple": self.target.channel_multiple}

        def produce(folder: Path) -> None:
            from pipeline.prune import prune

            prune(
                Checkpoint(folder=loaded.path),
                self.dataset,
                read_preprocessing(loaded),
                recipe=budget,
                channel_multiple=self.target.channel_multiple,
                seed=self.recipe.seed,
                progress=self.progress,
                folder=folder,
            )

        return self._obtain("prune", "pipeline.prune", self._with_data(loaded=loaded), options, produce)

    def quantize(self, loaded: Folder, pruned: Folder) -> Folder:
        quantize_recipe = self.recipe.quantize
        options: dict[str, Json] = quantize_recipe.model_dump(mode="json") | {
            "seed": self.recipe.seed,
            "weight_bits": self.weight_bits,
        }

        def produce(folder: Path) -> None:
            from pipeline.quantize import quantize

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
            )

        inputs = self._with_data(loaded=loaded, pruned=pruned)
        return self._obtain("quantize", "pipeline.quantize", inputs, options, produce)

    def export(self, loaded: Folder, network: Folder, dialects: tuple[Dialect, ...]) -> Folder:
        def produce(folder: Path) -> None:
            from pipeline.export import export

            export(
                Checkpoint(folder=network.path),
                self.dataset,
                read_preprocessing(loaded),
                dialects=dialects,
                progress=self.progress,
                folder=folder,
            )

        inputs = self._with_data(loaded=loaded, network=network)
        return self._obtain("export", "pipeline.export", inputs, {"dialects": list(dialects)}, produce)

    def compile(self, loaded: Folder, baseline: Folder, models: Folder) -> Folder:
        """Candidates of every precision the target considers, timed beside the unpruned float baseline."""
        check_buildable(self.target)
        recipe = self.recipe
        target_facts: Json = {**asdict(self.target), "description": ""}
        options: dict[str, Json] = {
            "target": target_facts,
            "threads": recipe.threads,
            "name": recipe.name,
            "version": recipe.version,
            "weight_bits": self.weight_bits,
        }

        def produce(folder: Path) -> None:
            from pipeline.compile import compile_candidates

            written = read_export(models.path)
            of_precision = {Precision.FP32: Dialect.FLOAT, Precision.INT8: self.target.dialect}
            compile_candidates(
                {precision: written[of_precision[precision]] for precision in self.target.precisions},
                read_export(baseline.path)[Dialect.FLOAT],
                target=self.target,
                dataset=self.dataset,
                preprocessing=read_preprocessing(loaded),
                name=recipe.name,
                version=recipe.version,
                classes=self.dataset.classes,
                weight_bits=self.weight_bits,
                threads=recipe.threads,
                progress=self.progress,
                folder=folder,
            )

        inputs = self._with_data(loaded=loaded, baseline=baseline, models=models)
        return self._obtain("compile", "pipeline.compile", inputs, options, produce)

    def shard(self, loaded: Folder) -> Folder:
        """The gate's images, labels and float logits: all a later place needs to make the same report."""

        def produce(folder: Path) -> None:
            from pipeline.shard import write_shard

            write_shard(
                Checkpoint(folder=loaded.path),
                self.dataset,
                read_preprocessing(loaded),
                progress=self.progress,
                folder=folder,
            )

        return self._obtain("validate", "pipeline.shard", self._with_data(loaded=loaded), {}, produce)

    def predict(self, artifact: Artifact, shard: Folder) -> Folder:
        """The artifact's logits on the gate's images; judging them is another, instant, matter."""

        def produce(folder: Path) -> None:
            from pipeline.measure import measure_artifact

            measure_artifact(artifact.folder, shard.path / "shard.zip", folder, progress=self.progress)

        inputs = {"manifest": sha256_of_file(artifact.manifest), "shard": shard.digest}
        return self._obtain("validate", "pipeline.measure", inputs, {}, produce)

    def package(
        self, artifact: Artifact, report: AccuracyReport, shard: Folder, predictions: Folder, judge: Judge
    ) -> tuple[Folder, Image]:
        """The image; one that the engine has lost since is built again."""
        recipe = self.recipe
        key = self.workspace.key(
            "package",
            module="pipeline.package",
            inputs={
                "manifest": sha256_of_file(artifact.manifest),
                "shard": shard.digest,
                "predictions": predictions.digest,
                "docker": sha256_of_folder(shipped("")),
                "device": sha256_of_folder(Path(device.__file__).parent, leave_out=("__pycache__",)),
            },
            options={
                "name": recipe.name,
                "version": recipe.version,
                "target": self.target.name,
                "base_image": recipe.package.base_image,
                # The image holds the report, which is made of this margin and of the inputs above.
                "max_drop": report.max_drop_points,
            },
        )
        found = self.workspace.find(key)
        if found is not None and not is_present(read_image(found.path)):
            self.workspace.forget(key)

        def produce(folder: Path) -> None:
            from pipeline.package import Proof, package

            package(
                artifact,
                report,
                proof=Proof(shard=shard.path / "shard.zip", predictions=predictions.path / "predictions.npz"),
                name=recipe.name,
                version=recipe.version,
                target=self.target,
                base_image=recipe.package.base_image,
                labels={RECIPE_LABEL: sha256_of_json(recipe.model_dump(mode="json", by_alias=True))},
                context=self.workspace.root / "context" / f"{recipe.name}-{recipe.version}-{self.target.name}",
                judge=judge,
                progress=self.progress,
                folder=folder,
            )

        packaged = self.workspace.obtain(key, produce)
        return packaged, read_image(packaged.path)

    def count_look(self, loaded: Folder, artifact: Artifact) -> int:
        """How many different artifacts of this model the gate has judged, this one included."""
        names = {"model": loaded.digest, "gate": self.dataset.gate.fingerprint}
        file = self.workspace.root / "looks.json"
        if self.workspace.only_look:
            return looks_at(file, **names)
        return look(file, **names, artifact=read_manifest(artifact.folder).model_sha256)

    def publish(self, artifact: Artifact, shard: Folder, predictions: Folder, report: AccuracyReport) -> Path:
        """Put artifact, shard, predictions and report where the user looks for them; returns the folder."""
        recipe = self.recipe
        root = self.workspace.root
        destination = root / "artifacts" / f"{recipe.name}-{recipe.version}-{self.target.name}"
        files = [
            *sorted(path for path in artifact.folder.iterdir() if path.is_file()),
            shard.path / "shard.zip",
            predictions.path / "predictions.npz",
        ]
        if not self.workspace.only_look and not is_published(destination, files, report):
            publish(destination, files, report, scratch=root / "tmp")
        return destination

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
