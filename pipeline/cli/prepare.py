"""Start of `deploy build`, `plan` and `profile`: the checked recipe, its targets and data, in a locked workspace."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.cli.console import progress_for
from pipeline.cli.request import Request
from pipeline.data.privacy import personal_warning
from pipeline.data.readers import Dataset, open_dataset
from pipeline.data.sample_size import too_small_warning
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.run import Run
from pipeline.training.torchrun import refuse_torchrun
from pipeline.workspace.store import Workspace
from targets.capabilities import check_combination
from targets.target import Target, find_target


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The checked recipe with its targets and data, in a workspace that this process holds."""

    recipe: Recipe
    targets: tuple[Target, ...]
    dataset: Dataset
    workspace: Workspace
    progress: Progress

    def run(self, target: Target) -> Run:
        return Run(
            recipe=self.recipe,
            target=target,
            dataset=self.dataset,
            workspace=self.workspace,
            progress=self.progress,
        )


@contextmanager
def prepare(request: Request) -> Iterator[Prepared]:
    """Check recipe, targets and data for a build, and hold the workspace."""
    refuse_torchrun("start `deploy` directly, with --nproc for training in several processes.")
    progress = progress_for(is_verbose=request.is_verbose)
    recipe = request.recipe
    # An alias and its target count once.
    targets = tuple(dict.fromkeys(find_target(name) for name in recipe.targets))
    if recipe.package.dla:
        for target in targets:
            check_combination(target, dla=True)
    workspace = Workspace(request.workspace_folder, progress=progress)
    with workspace.locked():
        index = workspace.root / "index.json"
        dataset = open_dataset(recipe.data, classes=recipe.classes, seed=recipe.seed, index=index, progress=progress)
        for note in dataset.notes:
            progress.line(f"note: {note}")
        for warning in (
            personal_warning(dataset, recipe, targets),
            too_small_warning(len(dataset.gate), recipe.validate_.max_drop),
        ):
            if warning:
                progress.line(f"warning: {warning}")
        yield Prepared(recipe=recipe, targets=targets, dataset=dataset, workspace=workspace, progress=progress)
