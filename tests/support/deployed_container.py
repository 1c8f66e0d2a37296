"""A container with the rights that `deploy emit` writes, and requests to it over a bare socket."""

import json
import socket
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from device_server import answer_of, http_request
from docker.models.containers import Container
from faults import GOOD, eventually

from pipeline.containers.container import OWNER, PORT, RIGHTS, owner, remove
from pipeline.containers.engine import Engine
from targets.device.healthcheck import is_ready
from targets.device.server.protocol import LENGTH_HEADER

READY_SECONDS = 60.0


@contextmanager
def deployed(engine: Engine, image: str, *, is_tls: bool = False, **options: Any) -> Iterator[tuple[Container, int]]:
    """A container with the rights that every one of ours has, and the port of its server; ready."""
    name = f"edge-deploy-{uuid.uuid4().hex[:12]}"
    try:
        given: dict[str, Any] = {**RIGHTS, **options, "ports": {PORT: ("127.0.0.1", None)}}
        container = engine.client.containers.create(image, name=name, labels={OWNER: owner()}, **given)
        container.start()
        assert eventually(
            lambda: port_of(container) > 0 and is_ready(port_of(container), is_tls=is_tls), READY_SECONDS
        )
        yield container, port_of(container)
    finally:
        remove(engine, name)


def port_of(container: Container) -> int:
    container.reload()
    bound = container.attrs["NetworkSettings"]["Ports"].get(PORT)
    return int(bound[0]["HostPort"]) if bound else 0


def status_of_good(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(GOOD)
        return answer_of(client)[0]


def files_request(*files: bytes) -> bytes:
    """The files as they are, behind the JSON."""
    tail = b"".join(struct.pack("<I", len(file)) + file for file in files)
    entry = {"name": "encoded", "datatype": "BYTES", "shape": [len(files)]}
    header = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": len(tail)}}]}).encode()
    return http_request(header + tail, f"{LENGTH_HEADER}: {len(header)}")
