"""`deploy devices`: list the devices; `deploy devices check`: check whether each meets its target."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import AsJson, Verbose
from pipeline.cli.output import print_table
from pipeline.errors import worst_of

if TYPE_CHECKING:
    from pipeline.devices.checkup import Checkup
    from pipeline.devices.inventory import Device

CHECK = "check"


def devices(
    words: Annotated[list[str] | None, typer.Argument(metavar="[check] [NAME...]")] = None,
    file: Annotated[Path, typer.Option("--devices", metavar="FILE", help="File of devices.")] = Path("devices.toml"),
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List the devices of devices.toml, or check whether each meets its target."""
    from pipeline.devices.inventory import find_devices
    from targets.target import find_target

    names = words or []
    is_check = names[:1] == [CHECK]
    found = find_devices(names[1:] if is_check else names, file)
    for device in found:
        assert device.target is not None, "every device of a file has a target"
        find_target(device.target)
    if is_check:
        _check(found, as_json=as_json, is_verbose=verbose)
    elif as_json:
        print(json.dumps([_facts(device) for device in found], indent=2))
    else:
        rows = [(each.name, each.login, each.target or "", each.folder, f"{each.timeout:g} s") for each in found]
        print_table("", ("device", "address", "target", "folder", "timeout"), rows)


def _check(devices: "Sequence[Device]", *, as_json: bool, is_verbose: bool) -> None:
    from pipeline.cli.console import progress_for
    from pipeline.devices.checkup import check_all

    progress = progress_for(is_verbose=is_verbose)
    found = check_all(devices, progress=progress)
    if as_json:
        print(json.dumps([_document(each) for each in found], indent=2))
    else:
        header = ("device", "target", "state", "is", "power", "clocks", "docker", "free", "°C")
        print_table("", header, [_row(each) for each in found])
        for each in found:
            for note in each.survey.notes if each.survey is not None else ():
                progress.line(f"note: {each.device.name}: {note}")
    worst = worst_of([each.error for each in found if each.error is not None])
    for each in found:
        if each.error is not None and each.error is not worst:
            progress.line(f"error: {each.error}")
    if worst is not None:
        raise worst


def _facts(device: "Device") -> dict[str, object]:
    return {**asdict(device), "docker": " ".join(device.docker)}


def _document(found: "Checkup") -> dict[str, object]:
    return {
        **_facts(found.device),
        "exit_code": 0 if found.error is None else found.error.exit_code,
        "error": None if found.error is None else str(found.error),
        "notes": [] if found.survey is None else list(found.survey.notes),
        "facts": None if found.survey is None else asdict(found.survey.facts),
        "seconds": round(found.seconds, 3),
    }


def _row(found: "Checkup") -> tuple[str, ...]:
    device = found.device
    if found.survey is None:
        assert found.error is not None
        return (device.name, device.target or "", f"{found.error.meaning} ({found.error.exit_code})", *[""] * 6)
    facts = found.survey.facts
    kind = facts.platform if facts.l4t is None else f"{facts.model or 'Jetson'}, JetPack {facts.jetpack or facts.l4t}"
    if facts.cards and facts.l4t is None:
        kind = ", ".join(card.name for card in facts.cards)
    clocks = {None: "", True: "pinned", False: "free"}[facts.clocks_pinned]
    free = "" if facts.docker_free_bytes is None else f"{facts.docker_free_bytes / 1e9:,.1f} GB"
    heat = "" if facts.temperature is None else f"{facts.temperature:.0f}"
    return (
        device.name,
        device.target or "",
        "ready",
        kind,
        facts.power_mode or "",
        clocks,
        facts.docker or "",
        free,
        heat,
    )
