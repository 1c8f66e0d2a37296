"""What ends a build: looks at the gate, the published artifact, the image; each in the workspace of one target."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Artifact, Image, Judge, Verdict
from pipeline.data.dataset import Dataset
from pipeline.hashing import sha256_of_file, sha256_of_folder, sha256_of_json
from pipeline.image import is_present, read_image
from pipeline.looks import Look, look, look_if_judged
from pipeline.progress import Progress
from pipeline.publish import REPORT, is_published, keep_private, publish
from pipeline.recipe import Recipe
from pipeline.shipped import shipped
from pipeline.variant import Variant
from pipeline.workspace import Folder, Workspace, child
from targets import device
from targets.base import Target
from targets.device.files import PREDICTIONS, SHARD
from targets.device.manifest import read_manifest

RECIPE_LABEL = "dev.edge-deploy.recipe.sha256"


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One target's recipe, data and workspace, and what is done with an artifact that is made."""

    recipe: Recipe
    target: Target
    dataset: Dataset
    workspace: Workspace
    progress: Progress

    def package(
        self,
        artifact: Artifact,
        report: AccuracyReport,
        shard: Folder,
        predictions: Folder,
        judge: Judge,
        variant: Variant | None = None,
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
                **inputs_of([] if variant is None else [variant]),
                **code_hashes(),
            },
            options={
                "name": recipe.name,
                "version": recipe.version,
                "target": self.target.name,
                "base_image": recipe.package.base_image,
                "grpc": recipe.package.grpc,
                # The image holds the reports, which are made of this margin and of the inputs above.
                "max_drop": report.max_drop_points,
                "confidence": report.confidence,
                "looks": report.gate_looks,
            },
        )
        found = self.workspace.find(key)
        if found is not None and not is_present(read_image(found.path)):
            self.workspace.forget(key)

        def produce(folder: Path) -> None:
            from pipeline.package import Proof, package

            self.workspace.check(artifact.folder, shard.path, predictions.path)
            package(
                artifact,
                report,
                proof=Proof(shard=shard.path / SHARD, predictions=predictions.path / PREDICTIONS),
                safe=variant,
                name=recipe.name,
                version=recipe.version,
                target=self.target,
                base_image=recipe.package.base_image,
                grpc=recipe.package.grpc,
                labels={RECIPE_LABEL: sha256_of_json(recipe.model_dump(mode="json", by_alias=True))},
                context=child(self.workspace.root / "context", self.published_as),
                judge=judge,
                progress=self.progress,
                folder=folder,
            )

        packaged = self.workspace.obtain(key, produce)
        return packaged, read_image(packaged.path)

    @property
    def published_as(self) -> str:
        """Name of the folder with what came of this target."""
        return f"{self.recipe.name}-{self.recipe.version}-{self.target.name}"

    def count_look(self, loaded: Folder, artifact: Artifact) -> Look:
        """The how-manieth artifact of this model it is that the gate judges."""
        # Before TensorRT 10.12 fp16 and fp32 are built from the same file, and answer differently.
        manifest = read_manifest(artifact.folder)
        judged = manifest.model_sha256 + ("" if self.target.gpu is None else f" {manifest.precision}")
        names = {"model": loaded.digest, "gate": self.dataset.gate.fingerprint, "artifact": judged}
        file = self.workspace.root / "looks.json"
        return look_if_judged(file, **names) if self.workspace.only_look else look(file, **names)

    def publish(
        self,
        artifact: Artifact,
        shard: Folder,
        predictions: Folder,
        report: AccuracyReport,
        variants: Sequence[Variant] = (),
    ) -> Path:
        """Put artifact, shard, predictions and report where the user looks for them; returns the folder.

        A shard that shows people is not among them unless the recipe says so; see `pipeline.publish.shard_of`.
        """
        root = self.workspace.root
        # What has not passed lies beside what has, so that no trial takes the place of a proven artifact.
        suffix = "" if report.verdict is Verdict.PASS else f".{report.verdict}"
        destination = child(root / "artifacts", f"{self.published_as}{suffix}")
        files = _files_of(artifact, predictions)
        of_gate = shard.path / SHARD
        if not self.dataset.gate.is_personal or self.recipe.package.personal_images:
            files[SHARD] = of_gate
        elif not self.workspace.only_look:
            keep_private(of_gate, destination)
        reports = {REPORT: report}
        for variant in variants:
            beside = _files_of(variant.artifact, variant.answers)
            files |= {f"{variant.folder}/{name}": path for name, path in beside.items()}
            reports |= {f"{variant.folder}/{REPORT}": variant.report}
        if not self.workspace.only_look and not is_published(destination, files, reports):
            self.workspace.check(*files.values())
            publish(destination, files, reports, scratch=root / "tmp")
        return destination


def _files_of(artifact: Artifact, predictions: Folder) -> dict[str, Path]:
    own = sorted(path for path in artifact.folder.iterdir() if path.is_file())
    return {path.name: path for path in own} | {PREDICTIONS: predictions.path / PREDICTIONS}


def code_hashes() -> dict[str, str]:
    """What an image holds of ours besides the model."""
    return {
        "docker": sha256_of_folder(shipped("")),
        "device": sha256_of_folder(Path(device.__file__).parent, leave_out=("__pycache__",)),
    }


def inputs_of(variants: Sequence[Variant]) -> dict[str, str]:
    """Hashes of the models beside the main one."""
    manifests = {f"{each.folder}_manifest": sha256_of_file(each.artifact.manifest) for each in variants}
    return manifests | {f"{each.folder}_predictions": each.answers.digest for each in variants}
