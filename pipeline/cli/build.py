"""`deploy build`, and the commands that stop after one stage."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.request import Request, request_of
from pipeline.errors import DeployError, RecipeError, worst_of

if TYPE_CHECKING:
    from pipeline.cli.prepare import Prepared
    from pipeline.devices.inventory import Device, Placement
    from pipeline.outcome import Outcome
    from targets.target import Target

DEVICES = "Devices"
PARTS = {
    "load": "Load the checkpoint and measure its float accuracy, then stop.",
    "prune": "Build up to the pruned and recovered network.",
    "quantize": "Build up to the quantized network.",
    "export": "Build up to the ONNX files, checked against PyTorch.",
    "compile": "Build up to the compiled, timed and audited candidates.",
}
"""Stages that are also commands, with their help."""


def build(
    ctx: typer.Context,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="NAME|ssh://USER@HOST|local",
            help="Build and prove the image on this device; local: this machine with its own GPU; repeat for several.",
            rich_help_panel=DEVICES,
        ),
    ] = None,
    devices: Annotated[
        Path | None,
        typer.Option(
            "--devices",
            metavar="FILE",
            help="File of devices, default: devices.toml; without --device all devices of the targets.",
            show_default=False,
            rich_help_panel=DEVICES,
        ),
    ] = None,
) -> None:
    """Take the checkpoint through all stages to a proven image."""
    from pipeline.devices.inventory import Placement

    placement = Placement(names=tuple(device or ()), file=devices) if device or devices else None
    build_all(request_of(ctx), until=None, placement=placement)


def build_until(last_stage: str) -> Callable[[typer.Context], None]:
    """Return the command that stops after `last_stage`."""

    def command(ctx: typer.Context) -> None:
        build_all(request_of(ctx), until=last_stage)

    return command


def build_all(
    request: Request, *, until: str | None, with_summary: bool = True, placement: "Placement | None" = None
) -> "list[Outcome]":
    """Build all targets, on the placement's devices if any; the worst error sets the exit code."""
    from pipeline.cli.prepare import prepare

    with refusal_as_document(request), prepare(request) as prepared:
        devices = {} if placement is None else _devices(prepared, placement, request)
        outcomes = [
            _build_one(prepared, target, until=until, devices=devices.get(target, ())) for target in prepared.targets
        ]
    if request.as_json:
        _print_document(outcomes, error=None)
    elif with_summary and (until is None or until == "package"):
        _print_summary(outcomes)
    if all(outcome.was_done_before for outcome in outcomes):
        prepared.progress.line("nothing to do: everything was built before")
    worst = worst_of([outcome.error for outcome in outcomes if outcome.error is not None])
    for outcome in outcomes:
        if outcome.error is not None and outcome.error is not worst:
            prepared.progress.line(f"error: {outcome.target.name}: {outcome.error}")
    if worst is not None:
        raise worst
    return outcomes


@contextmanager
def refusal_as_document(request: Request) -> Iterator[None]:
    """With --json, print an error before the first target as a JSON document too."""
    try:
        yield
    except DeployError as error:
        if request.as_json:
            _print_document([], error=error)
        raise


def _build_one(
    prepared: "Prepared", target: "Target", *, until: str | None, devices: "Sequence[Device]" = ()
) -> "Outcome":
    """Run one target through the stages."""
    from pipeline.build import build

    prepared.progress.line(f"target {target.name}: {target.description}")
    return build(prepared.run(target), until=until, devices=devices)


def _devices(prepared: "Prepared", placement: "Placement", request: Request) -> "dict[Target, list[Device]]":
    """Return each target's devices; checked before hours of training whether they can do the work."""
    from pipeline.data.privacy import check_sending
    from pipeline.devices.checkup import stop_if_none_is_ready
    from pipeline.devices.inventory import choose_devices

    if not prepared.recipe.package.image:
        raise RecipeError(
            "--device builds an image on the device: remove --no-image (package.image in the recipe) or --device."
        )
    check_sending(prepared.dataset, prepared.recipe)
    file = request.existing_recipe_file
    devices = choose_devices(placement, prepared.targets, beside=file.parent if file is not None else Path())
    stop_if_none_is_ready(devices, base_image=prepared.recipe.package.base_image, progress=prepared.progress)
    return devices


def _print_document(outcomes: "Sequence[Outcome]", *, error: DeployError | None) -> None:
    """Print exactly one JSON document to stdout."""
    from pipeline.report.document import document

    print(document(outcomes, error=error))


def _print_summary(outcomes: "Sequence[Outcome]") -> None:
    """Print the table before -> after."""
    from pipeline.cli.output import print_table
    from pipeline.report.table import table_header, table_rows

    print_table("", table_header(), table_rows(outcomes))
