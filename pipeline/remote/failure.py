"""What ssh and the device say when something fails, as errors of ours with the cure."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import (
    AccessDenied,
    CommandMissing,
    ConnectionLost,
    DeployError,
    DeviceDiskFull,
    DeviceError,
    HostKeyRefused,
    HostUnknown,
    HostUnreachable,
)
from pipeline.printable import on_one_line
from pipeline.remote.device import Device

SSH_FAILED = 255
"""The status of ssh where it is ssh that failed; scripts of ours never end with it."""
NOT_FOUND = 127
TAIL_LINES = 12
RETRIED = (HostUnreachable, ConnectionLost)
"""What may be over in a moment; anything else is the same the next time."""
NO_ROUTE = (
    r"Temporary failure in name resolution|Connection timed out|No route to host|Network is (?:unreachable|down)"
    r"|Connection refused|Host is down|Operation timed out|kex_exchange_identification|Connection reset by"
    r"|banner exchange"
)


def why_not_connected(device: Device, said: str) -> DeployError:
    """Why there is no connection, from what ssh said on stderr."""
    last = _last_line(said)
    for pattern, failure, text in (
        (
            r"REMOTE HOST IDENTIFICATION HAS CHANGED",
            HostKeyRefused,
            f"its host key is another than in known_hosts. {_new_key(device)}",
        ),
        (
            r"Host key verification failed|host key is known|host key for",
            HostKeyRefused,
            f"its host key is not known yet. Log in once by hand (ssh {device.login}) and compare the key",
        ),
        (
            r"Temporary failure in name resolution",
            HostUnreachable,
            "its name cannot be looked up at the moment. Check this machine's network",
        ),
        (
            r"Could not resolve hostname",
            HostUnknown,
            "no address is known for that name. Correct it, or give it a Host entry in ~/.ssh/config",
        ),
        (
            r"Permission denied|Too many authentication failures|no more authentication methods",
            AccessDenied,
            f"it does not let this user in without a password. Give it your key: ssh-copy-id {device.login}",
        ),
        (
            NO_ROUTE,
            HostUnreachable,
            "there is no way to it. Check that it is on, in the network, and runs an ssh server",
        ),
    ):
        if re.search(pattern, said):
            return failure(f"{_who(device)}: {text}. ssh says: {last}")
    return HostUnreachable(f"{_who(device)}: no connection came about. ssh says: {last}")


def lost(device: Device, doing: str, said: str = "") -> ConnectionLost:
    """The connection ended in the middle of `doing`."""
    last = _last_line(said)
    return ConnectionLost(
        f"{_who(device)}: the connection was lost while {doing}{f' (ssh says: {last})' if said.strip() else ''}. "
        "What is done there is kept: the same command goes on from there."
    )


def why_failed(device: Device, doing: str, status: int, said: str) -> DeployError:
    """Why a script failed on the device, from its status and what it wrote to stderr."""
    if re.search(r"no space left on device|disk quota exceeded", said, re.IGNORECASE):
        return DeviceDiskFull(
            f"{_who(device)}: its disk is full (while {doing}). Free some space there (docker system df shows what "
            f"images take, {device.folder} holds our own files) and run again: {_last_line(said)}"
        )
    missing = re.search(r"(?:^|[:\s])([\w./-]+): (?:command )?not found", said)
    if status == NOT_FOUND:
        name = missing[1] if missing is not None else "a program"
        return CommandMissing(
            f"{_who(device)}: {name} is not installed there, or not on the PATH of a login without a terminal "
            f"(while {doing}). Install it, or name the command in devices.toml (docker = …)."
        )
    tail = "\n".join(said.strip().splitlines()[-TAIL_LINES:]) or "it said nothing"
    return DeviceError(f"{_who(device)}: {doing} ended with status {status}:\n{tail}")


NOT_UNDERSTOOD = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading an answer raises that nobody could foresee."""


@contextmanager
def understanding(device: Device, what: str) -> Iterator[None]:
    """Turn what is raised over a device's answer into an error about that device alone; others are gone on with."""
    try:
        yield
    except NOT_UNDERSTOOD as error:
        raise DeviceError(
            f"{_who(device)}: {what} cannot be understood ({type(error).__name__}: {on_one_line(str(error))}). Is it "
            "a device of this kind?"
        ) from None


def _who(device: Device) -> str:
    return device.name if device.name == device.address else f"{device.name} ({device.address})"


def _new_key(device: Device) -> str:
    return (
        f"If it was installed anew, remove the old key (ssh-keygen -R {_in_known_hosts(device)}) and log in once by "
        f"hand (ssh {device.login}); if not, somebody may be in between"
    )


def _in_known_hosts(device: Device) -> str:
    host = device.address.rpartition("@")[2]
    return host if device.port is None else f"'[{host}]:{device.port}'"


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"
