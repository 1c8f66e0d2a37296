"""A server of TLS and its clients."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from device_server import HOST, Running, start, until
from tiny_package import write_tiny_package

from targets.device.healthcheck import is_ready


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("access") / "artifact").folder


@contextmanager
def speaking_tls(folder: Path, log: Path, **settings: Path) -> Iterator[Running]:
    """A server in a process of its own that speaks TLS and is ready."""
    given: dict[str, Any] = {name.upper(): path for name, path in settings.items()}
    running = start(folder, log, **given)
    try:
        until(lambda: is_ready(running.port, HOST, is_tls=True), running)
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def client_of(running: Running, context: ssl.SSLContext) -> httpx2.Client:
    return httpx2.Client(base_url=f"https://localhost:{running.port}", verify=context, timeout=30)
