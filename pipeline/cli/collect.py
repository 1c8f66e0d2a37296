"""`deploy collect`: fetch a device's proof of the engine it built, and judge it again here."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.output import say
from pipeline.cli.request import workspace_folder
from pipeline.errors import GateFailed, GateUndecided, RecipeError


def collect(
    address: Annotated[str, typer.Argument(metavar="URL", help="The device's server, as http://orin.local:8000.")],
    name: Annotated[str | None, typer.Option(help="Name for the device; default: its host.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the server's token, if it needs one.")] = None,
    authority: Annotated[
        Path | None, typer.Option("--ca", help="PEM file of the authority that signed the server's certificate.")
    ] = None,
    recipe: o.RecipeFile = None,
    workspace: o.WorkspaceFolder = None,
    as_json: o.AsJson = False,
) -> None:
    """Fetch a device's proof of the engine it built, and change pending to proven."""
    from pipeline.artifacts import Verdict
    from pipeline.compile.engine_audit import check_engine
    from pipeline.devices.collect import Access, device_name
    from pipeline.devices.collect import collect as fetch
    from pipeline.devices.record import comparison_text
    from pipeline.validate.packaging_rule import verdict_text

    device = name or device_name(address)
    access = Access(token=None if token_file is None else _token(token_file), authority=authority)
    found = fetch(address, name=device, workspace=workspace_folder(recipe, workspace), access=access)
    report = found.report
    if as_json:
        audit = None if found.audit is None else asdict(found.audit)
        own = {"device": device, "folder": str(found.folder), "audit": audit, "note": found.note}
        print(json.dumps({**own, "comparison": found.facts.get("comparison"), **asdict(report)}, indent=2))
    else:
        say(f"{device}: {verdict_text(report)}")
        if found.note is not None:
            say(f"{device}: {found.note}")
        if compared := comparison_text(found.facts):
            say(f"{device}: {compared}")
        if found.audit is not None:
            say(f"{device}: {found.audit.text}")
        say(f"{report.runtime} on {report.instruction_set}; kept in {found.folder}")
    if report.verdict is Verdict.FAIL:
        raise GateFailed(f"the engine on {device} loses more than the allowed {report.max_drop_points:g} points.")
    if report.verdict is Verdict.UNDECIDED:
        raise GateUndecided(f"{report.images} images are too few to decide whether the engine on {device} passes.")
    if found.audit is not None:
        check_engine(found.audit, device)


def _token(file: Path) -> str:
    """Return the first of the server's tokens; the file is the server's TOKEN_FILE."""
    try:
        lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise RecipeError(f"the token file {file} cannot be read: {error.strerror}.") from None
    if not lines:
        raise RecipeError(f"the token file {file} has no token in it.")
    return lines[0]
