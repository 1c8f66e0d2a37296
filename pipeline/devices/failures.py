"""Convert failures of ssh and of the device's scripts into our errors, with the cure."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.devices.inventory import Device
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
from pipeline.untrusted import on_one_line

SSH_FAILED = 255
"""Exit status of ssh when ssh itself failed; our scripts never use it."""
NOT_FOUND = 127
TAIL_LINES = 12
RETRIED = (HostUnreachable, ConnectionLost)
"""Errors that may be temporary; all others would occur again."""
NO_ROUTE = (
    r"Temporary failure in name resolution|Connection timed out|No route to host|Network is (?:unreachable|down)"
    r"|Connection refused|Host is down|Operation timed out|kex_exchange_identification|Connection reset by"
    r"|banner exchange"
)


def why_not_connected(device: Device, said: str) -> DeployError:
    """Return why there is no connection, from ssh's stderr."""
    last = _last_line(said)
    for pattern, failure, text in (
        (
            r"REMOTE HOST IDENTIFICATION HAS CHANGED",
            HostKeyRefused,
            f"its host key differs from the one in known_hosts. {_new_key(device)}",
        ),
        (
            r"Host key verification failed|host key is known|host key for",
            HostKeyRefused,
            f"its host key is not known yet. Log in once manually (ssh {device.login}) and compare the key",
        ),
        (
            r"Temporary failure in name resolution",
            HostUnreachable,
            "its name cannot be resolved at the moment. Check this machine's network",
        ),
        (
            r"Could not resolve hostname",
            HostUnknown,
            "its name cannot be resolved. Correct it, or give it a Host entry in ~/.ssh/config",
        ),
        (
            r"Permission denied|Too many authentication failures|no more authentication methods",
            AccessDenied,
            f"it refuses the login without a password. Install your key: ssh-copy-id {device.login}",
        ),
        (
            NO_ROUTE,
            HostUnreachable,
            "it cannot be reached. Check that it is on, in the network, and runs an ssh server",
        ),
    ):
        if re.search(pattern, said):
            return failure(f"{_who(device)}: {text}. ssh says: {last}")
    return HostUnreachable(f"{_who(device)}: the connection failed. ssh says: {last}")


def connection_lost(device: Device, doing: str, said: str = "") -> ConnectionLost:
    """Return the error for a connection that ended during `doing`."""
    last = _last_line(said)
    return ConnectionLost(
        f"{_who(device)}: the connection was lost while {doing}{f' (ssh says: {last})' if said.strip() else ''}. "
        "Finished work is kept: run the same command to continue."
    )


def why_failed(device: Device, doing: str, status: int, said: str) -> DeployError:
    """Return why a script failed on the device, from its status and stderr."""
    if re.search(r"no space left on device|disk quota exceeded", said, re.IGNORECASE):
        return DeviceDiskFull(
            f"{_who(device)}: its disk is full (while {doing}). Free some space there (docker system df shows what "
            f"images take, {device.folder} holds our own files) and run again: {_last_line(said)}"
        )
    missing = re.search(r"(?:^|[:\s])([\w./-]+): (?:command )?not found", said)
    if status == NOT_FOUND:
        name = missing[1] if missing is not None else "a program"
        return CommandMissing(
            f"{_who(device)}: {name} is not installed, or not on the PATH of a login without a terminal "
            f"(while {doing}). Install it, or set the command in devices.toml (docker = …)."
        )
    tail = "\n".join(said.strip().splitlines()[-TAIL_LINES:]) or "it printed nothing"
    return DeviceError(f"{_who(device)}: {doing} ended with status {status}:\n{tail}")


NOT_UNDERSTOOD = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""Unforeseen errors of parsing an answer."""


@contextmanager
def parsing_answer(device: Device, what: str) -> Iterator[None]:
    """Convert errors over a device's answer into an error of that device only; others continue."""
    try:
        yield
    except NOT_UNDERSTOOD as error:
        raise DeviceError(
            f"{_who(device)}: {what} cannot be parsed ({type(error).__name__}: {on_one_line(str(error))}). Is it "
            "a device of this kind?"
        ) from None


def _who(device: Device) -> str:
    return device.name if device.name == device.address else f"{device.name} ({device.address})"


def _new_key(device: Device) -> str:
    return (
        f"If it was reinstalled, remove the old key (ssh-keygen -R {_in_known_hosts(device)}) and log in once "
        f"manually (ssh {device.login}); if not, the connection may be intercepted"
    )


def _in_known_hosts(device: Device) -> str:
    host = device.address.rpartition("@")[2]
    return host if device.port is None else f"'[{host}]:{device.port}'"


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"
