"""Containers with the memory and the limits that `emit` writes, under every attack on the memory at once."""

import gzip
import json
import math
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import write_certificates
from deployed_container import deployed, files_request, status_of_good
from device_server import http_request, images, json_request
from docker.models.containers import Container
from faults import allow_files, eventually
from image_bombs import large as large_image
from tiny_package import Packaged
from unread_clients import push

from pipeline.containers.engine import Engine
from pipeline.package.service_files import Service
from targets.device.healthcheck import is_ready

pytestmark = [pytest.mark.docker, pytest.mark.slow]
LARGE = 500_000
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@contextmanager
def emitted(engine: Engine, packaged: Packaged, memory_mib: int) -> Iterator[tuple[Container, int]]:
    service = Service(image=packaged.image.tag, memory_mib=memory_mib)
    limit = f"{memory_mib}m"
    options: dict[str, Any] = {"mem_limit": limit, "memswap_limit": limit, "environment": service.environment}
    with deployed(engine, packaged.image.tag, **options) as started:
        yield started


def attacks(memory_mib: int) -> dict[str, bytes]:
    """By name, what each of many clients sends, and of which it reads nothing."""
    environment = Service(image="a", memory_mib=memory_mib).environment
    body = int(environment["MAX_BODY_MIB"]) << 20
    # The largest that is taken.
    side = math.isqrt(int(environment["MAX_IMAGE_MIPIXELS"]) << 20)
    large = json.dumps({**json_request(images(1)), "id": "x" * (body - 8000)}).encode()
    numbers = b'{"inputs": [{"name": "images", "shape": [64, 3, 8, 8], "datatype": "FP32", "data": ['
    numbers += b"1," * (body // 2)
    return {
        "pages": GET * 3000,
        "heads": GET[:-2] + b"".join(b"x%d: %s\r\n" % (n, b"y" * 640) for n in range(90)),
        "many headers": (GET[:-2] + b"".join(b"x%d: y\r\n" % n for n in range(97)) + b"\r\n") * 200,
        "ids": http_request(large),
        "stalled bodies": http_request(b" " * body)[:-1],
        "numbers": http_request(numbers[:body]),
        "large images": files_request(large_image("RGB", side)),
        "transparent images": files_request(large_image("RGBA", math.isqrt(side * side // 2))),
        "bombs": http_request(gzip.compress(b" " * body), "Content-Encoding: gzip"),
    }


def answers(port: int) -> bool:
    """Whether a good client has its answer; where connections come in floods it may have to come again."""
    try:
        return status_of_good(port) == 200
    except (OSError, IndexError):
        return False


def state_of(container: Container) -> tuple[str, bool, bool]:
    container.reload()
    state = container.attrs["State"]
    return state["StartedAt"], state["OOMKilled"], state["Running"]


def attack(port: int, clients: ExitStack, sent: bytes, count: int) -> None:
    for _ in range(count):
        try:
            client = clients.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            client.settimeout(1)
            if len(sent) >= LARGE:
                client.sendall(sent)
        except OSError:
            continue
        if len(sent) < LARGE:
            push(client, sent)


LONG = pytest.mark.long


@pytest.mark.parametrize(
    "memory_mib", [pytest.param(96, marks=LONG), 128, pytest.param(256, marks=LONG), pytest.param(512, marks=LONG)]
)
def test_no_client_exhausts_the_memory_that_emit_writes(engine: Engine, packaged: Packaged, memory_mib: int) -> None:
    allow_files(9000)
    with emitted(engine, packaged, memory_mib) as (container, port):
        started = state_of(container)
        with ExitStack() as clients:
            for name, sent in attacks(memory_mib).items():
                attack(port, clients, sent, 1020 if name in ("pages", "heads", "many headers") else 60)
                time.sleep(1.2)
                assert eventually(lambda: answers(port)), (name, state_of(container), container.logs(tail=5))
                assert state_of(container) == started, (name, container.logs(tail=5))
        assert eventually(lambda: answers(port))


def test_silent_connections_do_not_exhaust_it_over_tls(engine: Engine, packaged: Packaged, tmp_path: Path) -> None:
    allow_files(2000)
    write_certificates(tmp_path)
    for file in (tmp_path, *tmp_path.iterdir()):
        file.chmod(0o755)
    service = Service(image=packaged.image.tag, memory_mib=128)
    files = {"TLS_CERTIFICATE": "/certificates/server.pem", "TLS_KEY": "/certificates/server.key"}
    options: dict[str, Any] = {
        "mem_limit": "128m",
        "memswap_limit": "128m",
        "environment": {**service.environment, **files},
        "volumes": {str(tmp_path): {"bind": "/certificates", "mode": "ro"}},
    }
    with deployed(engine, packaged.image.tag, is_tls=True, **options) as (container, port), ExitStack() as clients:
        started = state_of(container)
        attack(port, clients, b"", 800)
        attack(port, clients, b"\x16\x03\x01\x40\x00" + b"\x01" * 16000, 800)
        time.sleep(1.2)
        ready = eventually(lambda: is_ready(port, is_tls=True))
        assert (ready, state_of(container)) == (True, started), container.logs(tail=5)
