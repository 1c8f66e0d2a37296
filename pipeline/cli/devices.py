"""`deploy devices`: who they are, and `deploy devices check`: whether each can do what its target asks."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.cli.console import progress_for
from pipeline.cli.output import print_table
from pipeline.devices.checkup import Checkup, check_all
from pipeline.devices.inventory import Device, find_devices
from pipeline.errors import worst_of
from targets.target import find_target

CHECK = "check"


def run(words: Sequence[str], *, file: Path, as_json: bool, is_verbose: bool) -> None:
    """List, or check all in parallel; the worst of what is found decides the exit code."""
    is_check = bool(words) and words[0] == CHECK
    devices = find_devices(words[1:] if is_check else words, file)
    for device in devices:
        assert device.target is not None, "every device of a file has a target"
        find_target(device.target)
    if is_check:
        _check(devices, as_json=as_json, is_verbose=is_verbose)
    elif as_json:
        print(json.dumps([_facts(device) for device in devices], indent=2))
    else:
        rows = [(each.name, each.login, each.target or "", each.folder, f"{each.timeout:g} s") for each in devices]
        print_table("", ("device", "address", "target", "folder", "timeout"), rows)


def _check(devices: Sequence[Device], *, as_json: bool, is_verbose: bool) -> None:
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


def _facts(device: Device) -> dict[str, object]:
    return {**asdict(device), "docker": " ".join(device.docker)}


def _document(found: Checkup) -> dict[str, object]:
    return {
        **_facts(found.device),
        "exit_code": 0 if found.error is None else found.error.exit_code,
        "error": None if found.error is None else str(found.error),
        "notes": [] if found.survey is None else list(found.survey.notes),
        "facts": None if found.survey is None else asdict(found.survey.facts),
        "seconds": round(found.seconds, 3),
    }


def _row(found: Checkup) -> tuple[str, ...]:
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
