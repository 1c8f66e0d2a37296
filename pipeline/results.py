"""What each stage hands to those after it: its folders in the workspace, and how to read them."""

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
    """The float network as it came in, and the preprocessing that it was found to want."""

    folder: Folder

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(folder=self.folder.path)

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.from_dict(json.loads((self.folder.path / "preprocessing.json").read_text()))


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """The float network after its cut and recovery; the same network where nothing is pruned."""

    folder: Folder

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(folder=self.folder.path)


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """The network on its integer grid."""

    folder: Folder
    all_int8: Folder
    """With no layer in float but the recipe's; the same folder where no more were needed."""

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(folder=self.folder.path)

    @property
    def is_rescued(self) -> bool:
        return self.folder is not self.all_int8


@dataclass(frozen=True, kw_only=True)
class Exported:
    """ONNX files of the dialects that the target reads."""

    baseline: Folder
    """Of the float network as it came in."""
    models: Mapping[Dialect, Folder]


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The artifact that was chosen, and those that go beside it."""

    folders: tuple[Folder, ...]
    compilation: Compilation
    artifacts: tuple[Artifact, ...]
    """The main model first."""

    @property
    def artifact(self) -> Artifact:
        return self.artifacts[0]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An artifact, what it answered to the gate's images, and the report on that."""

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
        """The folder in the main model's that an alternative lies in, wherever that is."""
        return FOLDER if self.artifact.role is Role.SATURATION_SAFE else self.artifact.precision.value


@dataclass(frozen=True, kw_only=True)
class Validated:
    """The gate's verdicts."""

    shard_folder: Folder
    models: tuple[Judged, ...]
    """The main model first; alone where its verdict forbids an image."""
    published: Path
    """Where the user finds the artifact."""

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
    """The image, or what it can be built from where its base is."""

    folders: tuple[Folder, ...]
    image: Image | None
    context: Path | None = None
    """Of an image whose engine is built, and proven, where it is started."""
    words: str = ""
    """What its server says when it is started without a GPU, or why there is no image here."""
    models: tuple[Judged, ...] = ()
    """As the image answered; empty where nobody has asked it."""
