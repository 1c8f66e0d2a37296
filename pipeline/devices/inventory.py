"""Devices as the user names them: in `devices.toml`, or by address.

Also maps the command line's devices to targets.
"""

import difflib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import RecipeError
from pipeline.toml_errors import explain
from targets.target import Target, find_target

FILE = Path("devices.toml")
LOCAL = "local"
"""Name of this machine: it has the GPU itself, and ssh is not used."""
NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
# Valid ssh destinations; none begins with a dash, so none can be parsed as an option.
HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*)|\[?[0-9A-Fa-f:]+(?:%[A-Za-z0-9]+)?\]?)"
USER = r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?"
ADDRESS = re.compile(rf"(?:{USER}@)?{HOST}", re.ASCII)
FOLDER, DOCKER = "~/.cache/edge-deploy", "docker"
TIMEOUT_SECONDS, RETRIES, MEASURE_SECONDS = 3600.0, 6, 10


@dataclass(frozen=True, kw_only=True)
class Device:
    """A machine reached with ssh, and what to run there."""

    name: str
    address: str
    """`user@host` or a host of the user's ssh config."""
    port: int | None = None
    """None: the one of the ssh config."""
    target: str | None = None
    """None if only an address was given: the build's single target."""
    folder: str = FOLDER
    """Folder for our files on the device."""
    docker: tuple[str, ...] = (DOCKER,)
    """The device's Docker command, such as `sudo docker`."""
    timeout: float = TIMEOUT_SECONDS
    """Time limit for all of its work, in seconds."""
    retries: int = RETRIES
    """Maximum number of reconnections."""
    measure: int = MEASURE_SECONDS
    """Seconds to measure the proven model."""
    is_local: bool = False

    @property
    def login(self) -> str:
        """Arguments for a manual ssh login."""
        return f"{f'-p {self.port} ' if self.port is not None else ''}{self.address}"


class Entry(BaseModel):
    """One table of `devices.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field(description="user@host, or a host of ~/.ssh/config")
    target: str = Field(description="a target's name, or the path of its file")
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    folder: Annotated[str, Field(pattern=r"^(/|~/)[^:\n'\"$`\\]*$")] = Field(
        default=FOLDER, description="folder for our files on the device"
    )
    docker: Annotated[str, Field(pattern=r"^[\w./=-]+( [\w./=-]+)*$")] = Field(
        default=DOCKER, description="the device's Docker command, such as 'sudo docker'"
    )
    timeout: Annotated[float, Field(gt=0)] = Field(
        default=TIMEOUT_SECONDS, description="time limit for all of its work, in seconds"
    )
    retries: Annotated[int, Field(ge=0, le=100)] = Field(
        default=RETRIES, description="maximum number of reconnections"
    )
    measure: Annotated[int, Field(ge=0, le=3600)] = Field(
        default=MEASURE_SECONDS, description="seconds to measure the proven model; 0: not at all"
    )

    @model_validator(mode="after")
    def _is_an_address(self) -> Self:
        if not ADDRESS.fullmatch(self.address) or not is_host(self.address.rpartition("@")[2]):
            raise ValueError(f"address = {self.address!r} is not user@host; give a port separately: port = 2222")
        return self


class DevicesFile(BaseModel):
    """All of `devices.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    devices: dict[Annotated[str, Field(pattern=rf"^{NAME}$", max_length=64)], Entry] = Field(min_length=1)


def read_devices(path: Path) -> list[Device]:
    """Return the devices of a file in its order; raise `RecipeError` with every mistake found."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(
            f"the devices' file {path} cannot be read: {error.strerror}. It needs a table for each device: "
            '[devices.NAME] with address = "user@host" and target = "orin-jp61".'
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"the devices' file {path} is not valid TOML: {error}.") from None
    try:
        entries = DevicesFile.model_validate(raw).devices
    except ValidationError as error:
        raise RecipeError(explain(str(path), error, DevicesFile)) from None
    return [_device(name, entry, path.parent) for name, entry in entries.items()]


def parse_address(text: str) -> Device:
    """Parse `ssh://user@host:port`; raise `RecipeError` if it is not valid."""
    wrong = RecipeError(
        f"--device {text}: neither a device's name nor an address such as ssh://user@host or ssh://user@host:2222."
    )
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise wrong from None
    address = url.netloc.removesuffix(f":{port}") if port is not None else url.netloc
    host = address.rpartition("@")[2].strip("[]")
    is_address = url.scheme == "ssh" and url.path in ("", "/") and ADDRESS.fullmatch(address) and port != 0
    if not is_address or not is_host(host) or url.query or url.fragment or url.password is not None:
        raise wrong
    name = re.sub(r"[^A-Za-z0-9._-]", "-", f"{host}-{port}" if port is not None else host).strip("-.")
    # An IPv6 address has brackets in a URL, but not for ssh.
    return Device(name=name, address=address.replace("[", "").replace("]", ""), port=port)


def is_host(host: str) -> bool:
    """Whether it can be a host: text like an IP address must be one, or its lookup takes a minute."""
    bare = host.strip("[]").partition("%")[0]
    if ":" not in bare and not re.fullmatch(r"[0-9]+(?:\.[0-9]+)+", bare):
        return bool(bare)
    try:
        ip_address(bare)
    except ValueError:
        return False
    return True


def _device(name: str, entry: Entry, beside: Path) -> Device:
    facts = entry.model_dump()
    is_file = entry.target.endswith(".toml")
    return Device(
        **{
            **facts,
            "name": name,
            "docker": tuple(entry.docker.split()),
            "target": str(beside / entry.target) if is_file else entry.target,
        }
    )


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The requested devices, before they are looked up."""

    names: tuple[str, ...]
    file: Path | None


def choose_devices(placement: Placement, targets: Sequence[Target], *, beside: Path) -> dict[Target, list[Device]]:
    """Return the devices of each of a build's targets; raise `RecipeError` if a device fits none of them."""
    if placement.names:
        found = [_find_device(name, placement.file or beside / FILE) for name in placement.names]
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
                f"the device {device.name} has the target {name}, but the build is for {', '.join(by_name)}: add "
                f"--target {name}, or leave the device out."
            )
    if not any(by_name.values()):
        there = ", ".join(f"{device.name} ({device.target})" for device in unique.values())
        raise RecipeError(f"no device has a target of this build ({', '.join(by_name)}): {there}.")
    return {target: by_name[target.name] for target in targets}


def find_devices(names: Sequence[str], file: Path) -> list[Device]:
    """Return devices of a file by name, or all of them if no name is given."""
    known = {device.name: device for device in read_devices(file)}
    for name in names:
        if name not in known:
            raise RecipeError(f"{file} has no device {name!r}.{_hint(name, known)}")
    return [known[name] for name in names] if names else list(known.values())


def _find_device(name: str, file: Path) -> Device:
    if name == LOCAL:
        return Device(name=LOCAL, address=LOCAL, is_local=True)
    if "://" in name:
        return parse_address(name)
    if not file.is_file():
        raise RecipeError(
            f"--device {name}: the file of devices {file} does not exist. Write one ([devices.{name}] with address "
            f"and target), give another with --devices, or give the address: --device ssh://user@host."
        )
    return find_devices([name], file)[0]


def _target_of(device: Device, targets: Sequence[Target]) -> str:
    if device.target is not None:
        return find_target(device.target).name
    if len(targets) > 1:
        shown = device.address if device.is_local else f"ssh://{device.address}"
        raise RecipeError(
            f"--device {shown}: which target is it, {', '.join(each.name for each in targets)}? "
            f"Add it to {FILE} with its target, or build for one target."
        )
    return targets[0].name


def _hint(name: str, known: dict[str, Device]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]}?" if close else f" Known: {', '.join(known)}."
