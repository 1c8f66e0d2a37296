"""From what the command line says to devices with their targets."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.devices.inventory import FILE, LOCAL, Device, parse_address, read_devices
from pipeline.errors import RecipeError
from targets.target import Target, find_target


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which devices were asked for, before they are looked up."""

    names: tuple[str, ...]
    file: Path | None


def chosen(placement: Placement, targets: Sequence[Target], *, beside: Path) -> dict[Target, list[Device]]:
    """The devices of each of a build's targets; raises `RecipeError` where one fits none of them."""
    if placement.names:
        found = [_found(name, placement.file or beside / FILE) for name in placement.names]
    else:
        assert placement.file is not None, "neither names nor a file"
        found = read_devices(placement.file)
    unique = {device.name: device for device in found}
    by_name: dict[str, list[Device]] = {target.name: [] for target in targets}
    for device in unique.values():
        name = _target_of(device, targets)
        if name in by_name:
            by_name[name].append(device)
        elif placement.names:
            raise RecipeError(
                f"the device {device.name} is of the target {name}, and the build is for {', '.join(by_name)}: add "
                f"--target {name}, or leave the device out."
            )
    if not any(by_name.values()):
        there = ", ".join(f"{device.name} ({device.target})" for device in unique.values())
        raise RecipeError(f"none of the devices is of a target of this build ({', '.join(by_name)}): {there}.")
    return {target: by_name[target.name] for target in targets}


def named(names: Sequence[str], file: Path) -> list[Device]:
    """Devices of a file by their names, all of it where none is given."""
    known = {device.name: device for device in read_devices(file)}
    for name in names:
        if name not in known:
            raise RecipeError(f"there is no device {name!r} in {file}.{_hint(name, known)}")
    return [known[name] for name in names] if names else list(known.values())


def _found(name: str, file: Path) -> Device:
    if name == LOCAL:
        return Device(name=LOCAL, address=LOCAL, is_local=True)
    if "://" in name:
        return parse_address(name)
    if not file.is_file():
        raise RecipeError(
            f"--device {name}: there is no {file} to look it up in. Write one ([devices.{name}] with address and "
            f"target), name another with --devices, or give its address: --device ssh://user@host."
        )
    return named([name], file)[0]


def _target_of(device: Device, targets: Sequence[Target]) -> str:
    if device.target is not None:
        return find_target(device.target).name
    if len(targets) > 1:
        shown = device.address if device.is_local else f"ssh://{device.address}"
        raise RecipeError(
            f"--device {shown}: of which target is it, {', '.join(each.name for each in targets)}? "
            f"Name it in {FILE} with its target, or build for one target."
        )
    return targets[0].name


def _hint(name: str, known: dict[str, Device]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]}?" if close else f" Known: {', '.join(known)}."
