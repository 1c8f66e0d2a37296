import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from device_server import HOST, ROOT, free_port

from targets.device.healthcheck import is_ready


@contextmanager
def answer(content: bytes, host: str = HOST) -> Iterator[int]:
    """The port of a server that answers `content` to whatever it is asked once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        listener.settimeout(30)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(content)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(
    ("content", "ready"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 200\r\n\r\n", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n200", False),
        (b"HTTP/1.1 404 200\r\n\r\n", False),
        (b"200", False),
        (b"", False),
        (b"\xff" * 500, False),
    ],
)
def test_only_200_is_ready(content: bytes, ready: bool) -> None:
    with answer(content) as port:
        assert is_ready(port, HOST) is ready


@pytest.mark.parametrize("host", ["0.0.0.0", HOST, "localhost"])
def test_a_server_on_every_address_is_found(host: str) -> None:
    with answer(b"HTTP/1.1 200 OK\r\n\r\n", "0.0.0.0") as port:
        assert is_ready(port, host)


def test_a_server_on_ipv6_is_found() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        with answer(b"HTTP/1.1 200 OK\r\n\r\n", "::1") as port:
            assert is_ready(port, "::")
            assert not is_ready(port, HOST)
    except OSError as error:
        pytest.skip(f"no IPv6: {error}")


def test_nobody_there_is_not_ready() -> None:
    assert not is_ready(free_port(), HOST)
    assert not is_ready(70_000, HOST)
    assert not is_ready(10**30, HOST)
    assert not is_ready(80, "no-such-host.invalid")


def test_it_imports_next_to_nothing() -> None:
    code = (
        "import sys, targets.device.healthcheck\n"
        "heavy = {'numpy', 'onnxruntime', 'httptools', 'prometheus_client', 'json', 'asyncio', 'ssl'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
