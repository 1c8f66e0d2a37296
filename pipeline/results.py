"""What each stage passes to the later ones: its folders in the workspace, and how to read them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Artifact, Checkpoint, Compilation, Dialect, Image, Role
from pipeline.workspace.store import Folder
from targets.device.files import PREDICTIONS, SHARD
from targets.device.model.preprocess import Preprocessing
from targets.device.model.variant import FOLDER


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The unchanged float network, and the preprocessing found for it."""

    folder: Folder

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(folder=self.folder.path)

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.from_dict(json.loads((self.folder.path / "preprocessing.json").read_text()))


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """The float network after pruning and recovery; the unchanged network if nothing is pruned."""

    folder: Folder

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(folder=self.folder.path)


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """The quantized network."""

    folder: Folder
    all_int8: Folder
    """With only the recipe's layers in float; the same folder if no others were needed."""

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(folder=self.folder.path)

    @property
    def is_rescued(self) -> bool:
        return self.folder is not self.all_int8


@dataclass(frozen=True, kw_only=True)
class Exported:
    """ONNX files in the target's dialects."""

    baseline: Folder
    """Of the unchanged float network."""
    models: Mapping[Dialect, Folder]


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The chosen artifact and its alternatives."""

    folders: tuple[Folder, ...]
    compilation: Compilation
    artifacts: tuple[Artifact, ...]
    """The main model first."""

    @property
    def artifact(self) -> Artifact:
        return self.artifacts[0]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An artifact, its answers to the gate's images, and the report on them."""

    artifact: Artifact
    answers: Folder
    report: AccuracyReport

    @property
    def name(self) -> str:
        return self.artifact.name

    @property
    def predictions(self) -> Path:
        return self.answers.path / PREDICTIONS

    @property
    def beside(self) -> str:
        """Name of an alternative's subfolder inside the main model's folder."""
        return FOLDER if self.artifact.role is Role.SATURATION_SAFE else self.artifact.precision.value


@dataclass(frozen=True, kw_only=True)
class Validated:
    """The gate's verdicts."""

    shard_folder: Folder
    models: tuple[Judged, ...]
    """The main model first; only the main model if its verdict forbids an image."""
    published: Path
    """Folder of the artifact for the user."""

    @property
    def main(self) -> Judged:
        return self.models[0]

    @property
    def alternatives(self) -> tuple[Judged, ...]:
        return self.models[1:]

    @property
    def shard(self) -> Path:
        return self.shard_folder.path / SHARD


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """The image, or the context to build it from on its device."""

    folders: tuple[Folder, ...]
    image: Image | None
    context: Path | None = None
    """Build context of an image whose engine is built and proven where it is started."""
    words: str = ""
    """Message of its server when started without a GPU, or why there is no image here."""
    models: tuple[Judged, ...] = ()
    """Judged by the image's answers; empty if the image was not asked."""
