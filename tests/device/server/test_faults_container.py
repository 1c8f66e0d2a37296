"""Containers as they are deployed: killed for memory and started anew, and without room on any disk."""

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from deployed_container import READY_SECONDS, deployed, files_request, port_of, status_of_good
from device_server import answer_of, http_request
from faults import eventually
from image_bombs import large, plain, scans
from tiny_package import Packaged

from pipeline.containers.engine import Engine
from targets.device.healthcheck import is_ready

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def test_a_container_killed_for_its_memory_comes_back_and_answers(engine: Engine, packaged: Packaged) -> None:
    options: dict[str, Any] = {"mem_limit": "160m", "memswap_limit": "160m", "restart_policy": {"Name": "always"}}
    with deployed(engine, packaged.image.tag, **options) as (container, port):
        assert status_of_good(port) == 200
        clients = []
        try:
            for _ in range(8):
                clients.append(socket.create_connection(("127.0.0.1", port), 30))
                head = http_request(b"").replace(b"Content-Length: 0", b"Content-Length: 60000000")
                # More than the container has, held until the bodies are whole.
                clients[-1].sendall(head + b"x" * 50_000_000)
        except OSError:
            # Killed under our hands.
            pass
        finally:
            for client in clients:
                client.close()

        def has_restarted() -> bool:
            container.reload()
            return int(container.attrs["RestartCount"]) > 0

        assert eventually(has_restarted, READY_SECONDS)
        assert eventually(lambda: port_of(container) > 0 and is_ready(port_of(container)), READY_SECONDS)
        assert status_of_good(port_of(container)) == 200


def sent(port: int, request: bytes) -> tuple[int, str]:
    with socket.create_connection(("127.0.0.1", port), 60) as client:
        client.sendall(request)
        status, answer = answer_of(client)
        return status, str(answer.get("error", ""))


BOMBS: dict[str, tuple[Callable[[], list[bytes]], int, str]] = {
    "RGBA": (lambda: [large("RGBA")], 400, "decoding it takes 512 MiB; at most 256 are allowed"),
    "palette": (lambda: [large("P")], 400, "decoding it takes 320 MiB"),
    "16 bits": (lambda: [large("I;16")], 400, "decoding it takes 384 MiB"),
    "scans": (lambda: [scans(20_000)], 400, "takes too long to decode"),
    "64 of 16 bits": (lambda: [large("I;16", 3000)] * 64, 413, "take too long to decode together"),
    "text": (lambda: [plain(3000)], 400, "takes too long to decode"),
}


def test_no_image_takes_the_memory_or_the_time_of_a_container(engine: Engine, packaged: Packaged) -> None:
    options: dict[str, Any] = {"mem_limit": "512m", "memswap_limit": "512m", "environment": {"INSTANCES": "2"}}
    with deployed(engine, packaged.image.tag, **options) as (container, port):
        for made, expected, reason in BOMBS.values():
            start = time.monotonic()
            status, error = sent(port, files_request(*made()))
            assert (status, reason in error) == (expected, True), error
            # Told from headers; the time is that of the way there.
            assert time.monotonic() - start < 10
        # The largest that are taken, at one time in both of the model's threads, between good ones.
        largest = files_request(large("RGB"))
        with ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(sent, port, largest) for _ in range(4)]
            assert {status_of_good(port) for _ in range(20)} == {200}
            assert {each.result()[0] for each in answers} == {200}
        container.reload()
        assert (container.attrs["RestartCount"], container.attrs["State"]["OOMKilled"]) == (0, False)
        assert status_of_good(port) == 200


def test_a_root_that_is_read_only_and_a_tmpfs_that_is_full_stop_nothing(engine: Engine, packaged: Packaged) -> None:
    fill = "f = open('/tmp/full', 'wb', 0)\nwhile True: f.write(b'x' * 65536)"
    with deployed(engine, packaged.image.tag) as (container, port):
        python = "/opt/edge-deploy/bin/python"
        status, output = container.exec_run([python, "-c", fill])
        assert (status, b"No space left on device" in output) == (1, True)
        status, output = container.exec_run([python, "-c", "open('/opt/edge-deploy/x', 'w')"])
        assert (status, b"Read-only file system" in output) == (1, True)
        assert status_of_good(port) == 200
        assert container.exec_run([python, "-m", "targets.device", "healthcheck"])[0] == 0
        container.stop(timeout=20)
        container.reload()
        assert container.attrs["State"]["ExitCode"] == 0
