"""The options of `deploy collect`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options as o


def collect(
    address: Annotated[str, typer.Argument(metavar="URL", help="The device's server, as http://orin.local:8000.")],
    name: Annotated[str | None, typer.Option(help="What to call the device; default: its host.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with a token, where the server asks for one.")] = None,
    authority: Annotated[
        Path | None, typer.Option("--ca", help="PEM file of the authority that signed the server's certificate.")
    ] = None,
    workspace: o.WorkspaceFolder = None,
    as_json: o.AsJson = False,
) -> None:
    """Fetch what a device has proven of the engine it built, and turn pending into proven."""
    from pipeline.cli.collect import run

    run(
        address,
        name=name,
        token_file=token_file,
        authority=authority,
        workspace=workspace or Path(".deploy"),
        as_json=as_json,
    )
