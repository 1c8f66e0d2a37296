"""A device as its user names it: in `devices.toml`, or by its address alone."""

import re
import tomllib
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import RecipeError
from pipeline.mistakes import explain

FILE = Path("devices.toml")
LOCAL = "local"
"""What this very machine is called: it has the GPU itself, and nothing goes over ssh."""
NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
# What ssh takes as a destination; none begins with a dash, so none is taken for an option.
HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*)|\[?[0-9A-Fa-f:]+(?:%[A-Za-z0-9]+)?\]?)"
USER = r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?"
ADDRESS = re.compile(rf"(?:{USER}@)?{HOST}", re.ASCII)
FOLDER, DOCKER = "~/.cache/edge-deploy", "docker"
TIMEOUT_SECONDS, RETRIES, MEASURE_SECONDS = 3600.0, 6, 10


@dataclass(frozen=True, kw_only=True)
class Device:
    """A machine that is reached with ssh, and what is to run there."""

    name: str
    address: str
    """`user@host` or a host of the user's ssh config."""
    port: int | None = None
    """None: the one of the ssh config."""
    target: str | None = None
    """None where only an address was given: the build's one target."""
    folder: str = FOLDER
    """Where our files are kept on the device."""
    docker: tuple[str, ...] = (DOCKER,)
    """The command that is Docker there, such as `sudo docker`."""
    timeout: float = TIMEOUT_SECONDS
    """Seconds that all of its work may take."""
    retries: int = RETRIES
    """How often a lost connection is made anew."""
    measure: int = MEASURE_SECONDS
    """Seconds that the proven model is measured for."""
    is_local: bool = False

    @property
    def login(self) -> str:
        """What to give to ssh by hand."""
        return f"{f'-p {self.port} ' if self.port is not None else ''}{self.address}"


class Entry(BaseModel):
    """One table of `devices.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field(description="user@host, or a host of ~/.ssh/config")
    target: str = Field(description="a target's name, or the path of its file")
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    folder: Annotated[str, Field(pattern=r"^(/|~/)[^:\n'\"$`\\]*$")] = Field(
        default=FOLDER, description="where our files are kept there"
    )
    docker: Annotated[str, Field(pattern=r"^[\w./=-]+( [\w./=-]+)*$")] = Field(
        default=DOCKER, description="the command that is Docker there, such as 'sudo docker'"
    )
    timeout: Annotated[float, Field(gt=0)] = Field(
        default=TIMEOUT_SECONDS, description="seconds that all of its work may take"
    )
    retries: Annotated[int, Field(ge=0, le=100)] = Field(
        default=RETRIES, description="how often a lost connection is made anew"
    )
    measure: Annotated[int, Field(ge=0, le=3600)] = Field(
        default=MEASURE_SECONDS, description="seconds that the proven model is measured for; 0: not at all"
    )

    @model_validator(mode="after")
    def _is_an_address(self) -> Self:
        if not ADDRESS.fullmatch(self.address) or not is_host(self.address.rpartition("@")[2]):
            raise ValueError(f"address = {self.address!r} is not user@host; a port has a key of its own: port = 2222")
        return self


class DevicesFile(BaseModel):
    """All of `devices.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    devices: dict[Annotated[str, Field(pattern=rf"^{NAME}$", max_length=64)], Entry] = Field(min_length=1)


def read_devices(path: Path) -> list[Device]:
    """The devices of a file in its order; raises `RecipeError` with every mistake found."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(
            f"the devices' file {path} cannot be read: {error.strerror}. It has a table for each: "
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
    """`ssh://user@host:port`; raises `RecipeError` where it is none."""
    wrong = RecipeError(
        f"--device {text}: no device is called so, and it is no address like ssh://user@host or ssh://user@host:2222."
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
    # An address of IPv6 wears brackets in a URL, not for ssh.
    return Device(name=name, address=address.replace("[", "").replace("]", ""), port=port)


def is_host(host: str) -> bool:
    """Whether it can be one: what looks like an IP address must be one, or it is looked up as a name for a minute."""
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
