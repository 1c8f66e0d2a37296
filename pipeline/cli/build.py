"""`deploy build`, and the same up to one stage."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.build import build
from pipeline.cli.console import progress_for
from pipeline.cli.options import Request
from pipeline.data.privacy import check_sending, personal_warning
from pipeline.data.readers import Dataset, open_dataset
from pipeline.data.sample_size import too_small_warning
from pipeline.devices.inventory import Device, Placement
from pipeline.errors import DeployError, RecipeError, worst_of
from pipeline.outcome import Outcome
from pipeline.progress import Progress
from pipeline.recipe import Recipe, read_recipe
from pipeline.run import Run
from pipeline.training.torchrun import refuse_torchrun
from pipeline.workspace.store import Workspace
from targets.capabilities import check_combination
from targets.target import Target, find_target


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The checked recipe with its targets and data, in a workspace that is ours."""

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
    refuse_torchrun("start `deploy` by itself, with --nproc for a training in several processes.")
    progress = progress_for(is_verbose=request.is_verbose)
    recipe = read_recipe(request.existing_recipe_file, request.flags)
    # An alias and its target are one.
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


def run(
    request: Request, *, until: str | None, with_summary: bool = True, placement: Placement | None = None
) -> list[Outcome]:
    """Build all targets, those of the placement's devices there; the worst failure decides the exit code."""
    try:
        with prepare(request) as prepared:
            devices = {} if placement is None else _devices(prepared, placement, request)
            outcomes = [
                build_one(prepared, target, until=until, devices=devices.get(target, ()))
                for target in prepared.targets
            ]
    except DeployError as error:
        if request.as_json:
            print_document([], error=error)
        raise
    if request.as_json:
        print_document(outcomes, error=None)
    elif with_summary and (until is None or until == "package"):
        print_summary(outcomes)
    if all(outcome.was_done_before for outcome in outcomes):
        prepared.progress.line("everything was done before: nothing to do")
    worst = worst_of([outcome.error for outcome in outcomes if outcome.error is not None])
    for outcome in outcomes:
        if outcome.error is not None and outcome.error is not worst:
            prepared.progress.line(f"error: {outcome.target.name}: {outcome.error}")
    if worst is not None:
        raise worst
    return outcomes


def build_one(prepared: Prepared, target: Target, *, until: str | None, devices: Sequence[Device] = ()) -> Outcome:
    """Take one target through the stages."""
    prepared.progress.line(f"target {target.name}: {target.description}")
    return build(prepared.run(target), until=until, devices=devices)


def _devices(prepared: Prepared, placement: Placement, request: Request) -> dict[Target, list[Device]]:
    """Each target's; asked before hours of training whether any of them can do its part."""
    from pipeline.devices.checkup import stop_if_none_is_ready
    from pipeline.devices.inventory import chosen

    if not prepared.recipe.package.image:
        raise RecipeError(
            "--device builds an image there: leave out --no-image (package.image in the recipe), or the devices."
        )
    check_sending(prepared.dataset, prepared.recipe)
    file = request.existing_recipe_file
    devices = chosen(placement, prepared.targets, beside=file.parent if file is not None else Path())
    stop_if_none_is_ready(devices, base_image=prepared.recipe.package.base_image, progress=prepared.progress)
    return devices


def print_document(outcomes: Sequence[Outcome], *, error: DeployError | None) -> None:
    """Exactly one JSON document on stdout."""
    from pipeline.report.document import document

    print(document(outcomes, error=error))


def print_summary(outcomes: Sequence[Outcome]) -> None:
    """The table before -> after."""
    from pipeline.cli.output import print_table
    from pipeline.report.table import table_header, table_rows

    print_table("", table_header(), table_rows(outcomes))
