"""One target's run through the stages: recipe, data, workspace, and how a stage's folder is found or made.

A stage's module is imported only when there is work to do, so that a build with nothing to do returns at once.
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
"""Code that no stage of a CPU target runs, although the registry of runtimes imports it."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Input of every stage of one target."""

    recipe: Recipe
    target: Target
    dataset: Dataset
    workspace: Workspace
    progress: Progress

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions to consider: all that the target's GPU or CPU supports, or its DLA."""
        return precisions_on_dla(self.target) if self.recipe.package.dla else self.target.precisions

    @property
    def dialects(self) -> tuple[Dialect, ...]:
        """Dialects of the target: its own for int8, the float one for other precisions."""
        wanted = {self.target.dialect if each is Precision.INT8 else Dialect.FLOAT for each in self.precisions}
        return tuple(dialect for dialect in Dialect if dialect in wanted)

    @property
    def weight_bits(self) -> int:
        """From the recipe, or what this machine's int8 kernels support without saturation; GPUs never saturate."""
        if self.recipe.quantize.weight_bits != "auto":
            return self.recipe.quantize.weight_bits
        return 7 if self.target.gpu is None and saturates_8bit() else 8

    @property
    def fallback(self) -> Fallback:
        """`none` on a CPU, which needs no engine."""
        return "none" if self.target.gpu is None else self.recipe.package.fallback

    @property
    def packages_undecided(self) -> bool:
        return self.recipe.validate_.undecided == "package"

    @property
    def is_timed_here(self) -> bool:
        """Whether this machine's timings hold for the target."""
        return resolve_place(self.target) is Place.HOST

    @property
    def target_facts(self) -> Json:
        """The target as part of keys; its description has no effect on results."""
        return {**asdict(self.target), "description": ""}

    @property
    def published_as(self) -> str:
        """Name of the folder with this target's results."""
        return f"{self.recipe.name}-{self.recipe.version}-{self.target.name}"

    def dry_run(self) -> "Run":
        """Return the same run, but with no work: a missing stage raises `NotDone`."""
        return replace(self, workspace=self.workspace.dry_run(), progress=Silent())

    def data(self, loaded: Loaded) -> Data:
        """Return the dataset with the preprocessing found by stage `load`."""
        return Data(dataset=self.dataset, preprocessing=loaded.preprocessing)

    def with_data(self, **folders: Folder) -> dict[str, str]:
        """Return the digests of these stages and of the data, as a key's inputs."""
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
        """Return the stage's folder: an existing one of the same `code` (a module) and inputs, or made by `work`."""
        return self.obtain_by(self.key(stage, code=code, inputs=inputs, settings=settings), work)

    def key(
        self,
        stage: str,
        *,
        code: str,
        inputs: Mapping[str, str],
        settings: "Mapping[str, Json] | DataclassInstance",
    ) -> StageKey:
        """Return the key that identifies the work: its inputs, its settings, and the code that the target runs."""
        options = settings if isinstance(settings, Mapping) else asdict(settings)
        leave_out = OF_TENSORRT if self.target.gpu is None else ()
        return self.workspace.key(stage, module=code, inputs=inputs, options=options, leave_out=leave_out)

    def obtain_by(self, key: StageKey, work: Callable[[Workplace], None]) -> Folder:
        """Same as `obtain`, with a key made by the caller."""

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
