"""The socket the server listens on."""

import socket

import pytest
from device_server import HOST, free_port

from targets.device.serve import _listen
from targets.device.settings import Settings


@pytest.mark.parametrize("host", [HOST, "::1"])
def test_no_answer_waits_for_the_acknowledgement_of_its_head(host: str) -> None:
    """Nagle's algorithm is off on every connection that comes in; with it each answer takes 40 ms more."""
    with (
        _listen(Settings(host=host, port=free_port())) as listener,
        socket.create_connection(listener.getsockname()[:2]),
    ):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
