"""Where a container's port is found: on this machine, or on that of an engine elsewhere."""

import os
import socket
from urllib.parse import urlsplit

from pipeline.containers.engine import Engine
from pipeline.errors import PackageError

ANY_PORT = 0


def usual_port_if_free(address: str, usual: str) -> int:
    """The port of `usual`, such as 8000/tcp, or any where another program of this machine listens there."""
    number = int(usual.partition("/")[0])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, number))
        except OSError:
            return ANY_PORT
    return number


def addresses(engine: Engine) -> tuple[str, str]:
    """Where the container's port is bound, and where we reach it: an engine elsewhere publishes on its own host."""
    url = urlsplit(engine.client.api.base_url)
    if url.scheme == "ssh" or os.environ.get("DOCKER_HOST", "").startswith("ssh://"):
        raise PackageError(
            f"the engine at {os.environ.get('DOCKER_HOST')} is reached through SSH, its containers are not. "
            "Build on that machine, or give its address as DOCKER_HOST=tcp://…"
        )
    host = urlsplit(os.environ.get("DOCKER_HOST", "")).hostname
    if host in (None, "localhost", "127.0.0.1", "::1") or os.environ["DOCKER_HOST"].startswith("unix"):
        return "127.0.0.1", "127.0.0.1"
    assert host is not None
    return "0.0.0.0", host
