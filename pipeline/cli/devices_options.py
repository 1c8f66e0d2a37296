"""The options that name devices, for `deploy build` and `deploy devices`."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import AsJson, Request, Verbose
from pipeline.devices.inventory import Placement

PANEL = "Devices"

DeviceNames = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="NAME|ssh://USER@HOST|local",
        help="Build and prove the image on this device; local: this machine, with its own GPU; repeat for several.",
        rich_help_panel=PANEL,
    ),
]
DevicesFile = Annotated[
    Path | None,
    typer.Option(
        "--devices",
        metavar="FILE",
        help="Devices by name, default: devices.toml; without --device all of the targets'.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]


def with_devices(
    with_recipe: Callable[[Callable[[Request], None]], Callable[..., None]],
) -> Callable[..., None]:
    """`deploy build`: `with_recipe` makes a command that takes every option of the recipe; it gets ours besides."""

    def build(device: DeviceNames = None, devices: DevicesFile = None, **of_recipe: object) -> None:
        def act(request: Request) -> None:
            from pipeline.cli.build import run

            placement = Placement(names=tuple(device or ()), file=devices) if device or devices else None
            run(request, until=None, placement=placement)

        with_recipe(act)(**of_recipe)

    # Typer reads the options off the signature.
    recipe = inspect.signature(with_recipe(lambda _request: None))
    *own, _of_recipe = inspect.signature(build).parameters.values()
    merged = [*recipe.parameters.values(), *own]
    build.__signature__ = recipe.replace(parameters=merged)  # type: ignore[attr-defined]
    build.__annotations__ = {each.name: each.annotation for each in merged}
    return build


def devices(
    words: Annotated[list[str] | None, typer.Argument(metavar="[check] [NAME...]")] = None,
    file: Annotated[Path, typer.Option("--devices", metavar="FILE", help="Where they are named.")] = Path(
        "devices.toml"
    ),
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List the devices of devices.toml, or check whether each can do what its target asks."""
    from pipeline.cli.devices import run

    run(words or [], file=file, as_json=as_json, is_verbose=verbose)
