"""One target's run through the stages: its recipe, data and workspace, and how a stage's folder is found or made.

A stage's module is imported only when there is work to do, so that a build with nothing to do answers at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts import Dialect, Fallback, Place, Precision
from pipeline.data.readers import Dataset
from pipeline.progress import Progress, Silent
from pipeline.recipe import Recipe
from pipeline.results import Loaded
from pipeline.workplace import Data, Workplace
from pipeline.workspace.hashing import Json
from pipeline.workspace.store import Folder, StageKey, Workspace
from targets.capabilities import precisions_on_dla
from targets.device.model.cpu import saturates_8bit
from targets.host import resolve_place
from targets.target import Target

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OF_TENSORRT = (
    "targets.device.tensorrt",
    "targets.dialects.tensorrt_rules",
    "targets.dialects.tensorrt_source",
    "targets.runtimes.tensorrt",
)
"""Code that no stage of a CPU target runs, though the registry of runtimes imports it."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every stage of one target is handed."""

    recipe: Recipe
    target: Target
    dataset: Dataset
    workspace: Workspace
    progress: Progress

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What is considered: all that the target's GPU or CPU runs, or its DLA."""
        return precisions_on_dla(self.target) if self.recipe.package.dla else self.target.precisions

    @property
    def dialects(self) -> tuple[Dialect, ...]:
        """Those that the target reads: its own for int8, the float one for the other precisions."""
        wanted = {self.target.dialect if each is Precision.INT8 else Dialect.FLOAT for each in self.precisions}
        return tuple(dialect for dialect in Dialect if dialect in wanted)

    @property
    def weight_bits(self) -> int:
        """The recipe's, or what this machine's int8 kernels hold without saturating; a GPU's sums never do."""
        if self.recipe.quantize.weight_bits != "auto":
            return self.recipe.quantize.weight_bits
        return 7 if self.target.gpu is None and saturates_8bit() else 8

    @property
    def fallback(self) -> Fallback:
        """None on a CPU, which needs no engine."""
        return "none" if self.target.gpu is None else self.recipe.package.fallback

    @property
    def packages_undecided(self) -> bool:
        return self.recipe.validate_.undecided == "package"

    @property
    def is_timed_here(self) -> bool:
        """Whether this machine's clock is the target's."""
        return resolve_place(self.target) is Place.HOST

    @property
    def target_facts(self) -> Json:
        """The target for keys: its description is only words."""
        return {**asdict(self.target), "description": ""}

    @property
    def published_as(self) -> str:
        """Name of the folder with what came of this target."""
        return f"{self.recipe.name}-{self.recipe.version}-{self.target.name}"

    def looking(self) -> "Run":
        """The same run, in which no stage works: a missing one raises `NotDone`."""
        return replace(self, workspace=self.workspace.looking(), progress=Silent())

    def data(self, loaded: Loaded) -> Data:
        """The dataset with the preprocessing that stage `load` settled on."""
        return Data(dataset=self.dataset, preprocessing=loaded.preprocessing)

    def with_data(self, **folders: Folder) -> dict[str, str]:
        """The digests of these stages and of the data, as a key's inputs."""
        return {name: folder.digest for name, folder in folders.items()} | {"data": self.dataset.fingerprint}

    def obtain(
        self,
        stage: str,
        *,
        code: str,
        inputs: Mapping[str, str],
        settings: "Mapping[str, Json] | DataclassInstance",
        work: Callable[[Workplace], None],
    ) -> Folder:
        """The stage's folder: found where its `code` (a module) has made it from the same, else made by `work`."""
        return self.obtain_by(self.key(stage, code=code, inputs=inputs, settings=settings), work)

    def key(
        self,
        stage: str,
        *,
        code: str,
        inputs: Mapping[str, str],
        settings: "Mapping[str, Json] | DataclassInstance",
    ) -> StageKey:
        """What identifies the work: what it is made from, its settings, and the code that runs for this target."""
        options = settings if isinstance(settings, Mapping) else asdict(settings)
        leave_out = OF_TENSORRT if self.target.gpu is None else ()
        return self.workspace.key(stage, module=code, inputs=inputs, options=options, leave_out=leave_out)

    def obtain_by(self, key: StageKey, work: Callable[[Workplace], None]) -> Folder:
        """As `obtain`, by a key that the caller has made."""

        def produce(folder: Path) -> None:
            work(
                Workplace(
                    folder=folder,
                    progress=self.progress,
                    continuation=self.workspace.continuation(key),
                    processes=self.recipe.nproc,
                )
            )

        return self.workspace.obtain(key, produce)
