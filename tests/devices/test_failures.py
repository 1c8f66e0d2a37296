"""What OpenSSH's client says, word for word (9.2 and its sources), and which error of ours it becomes."""

import pytest

from pipeline.devices.failures import RETRIED, connection_lost, why_failed, why_not_connected
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

DEVICE = Device(name="orin", address="me@orin.local", port=2222)
CHANGED = """@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
Host key for [orin.local]:2222 has changed and you have requested strict checking.
Host key verification failed."""
UNKNOWN = """No ED25519 host key is known for orin.local and you have requested strict checking.
Host key verification failed."""


@pytest.mark.parametrize(
    ("said", "kind", "cure"),
    [
        ("ssh: Could not resolve hostname orin.local: Name or service not known", HostUnknown, "~/.ssh/config"),
        (
            "ssh: Could not resolve hostname orin.local: Temporary failure in name resolution",
            HostUnreachable,
            "network",
        ),
        (CHANGED, HostKeyRefused, "ssh-keygen -R '[orin.local]:2222'"),
        (
            UNKNOWN,
            HostKeyRefused,
            "ssh -p 2222 me@orin.local",
        ),
        ("me@orin.local: Permission denied (publickey,password).", AccessDenied, "ssh-copy-id -p 2222 me@orin.local"),
        ("Received disconnect from 10.0.0.5: 2: Too many authentication failures", AccessDenied, "ssh-copy-id"),
        ("ssh: connect to host orin.local port 2222: Connection refused", HostUnreachable, "runs an ssh server"),
        ("ssh: connect to host orin.local port 2222: No route to host", HostUnreachable, "it cannot be reached"),
        ("ssh: connect to host orin.local port 2222: Connection timed out", HostUnreachable, "it cannot be reached"),
        ("kex_exchange_identification: Connection closed by remote host", HostUnreachable, "it cannot be reached"),
        ("", HostUnreachable, "the connection failed"),
    ],
)
def test_why_there_is_no_connection(said: str, kind: type[DeployError], cure: str) -> None:
    found = why_not_connected(DEVICE, said)
    assert type(found) is kind
    assert cure in str(found)
    assert "orin (me@orin.local)" in str(found)


def test_only_what_may_be_over_in_a_moment_is_tried_again() -> None:
    assert isinstance(connection_lost(DEVICE, "sending"), RETRIED)
    assert not isinstance(why_not_connected(DEVICE, CHANGED), RETRIED)
    assert not isinstance(why_failed(DEVICE, "building", 1, "no"), RETRIED)


def test_a_lost_connection_says_what_was_being_done() -> None:
    error = connection_lost(DEVICE, "sending 3 files", "Timeout, server orin.local not responding.")
    assert isinstance(error, ConnectionLost)
    assert "while sending 3 files" in str(error)
    assert "not responding" in str(error)


@pytest.mark.parametrize(
    ("status", "said", "kind", "cure"),
    [
        (1, "tar: x: Cannot write: No space left on device", DeviceDiskFull, "docker system df"),
        (1, "write /layer: no space left on device", DeviceDiskFull, "docker system df"),
        (127, "sh: 4: docker: not found", CommandMissing, "docker is not installed"),
        (127, "bash: line 1: sha256sum: command not found", CommandMissing, "sha256sum is not installed"),
        (1, "\n".join(f"line {index}" for index in range(99)), DeviceError, "line 98"),
        (3, "", DeviceError, "status 3"),
    ],
)
def test_why_a_script_failed(status: int, said: str, kind: type[DeployError], cure: str) -> None:
    found = why_failed(DEVICE, "building the image", status, said)
    assert type(found) is kind
    assert cure in str(found)
    assert "line 0" not in str(found)
