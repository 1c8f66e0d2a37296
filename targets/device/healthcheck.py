"""Ask the server of this container whether it is ready; imports next to nothing, as it runs every half minute."""

from __future__ import annotations

import socket

SECONDS = 4.0


def is_ready(port: int, host: str = "127.0.0.1") -> bool:
    """Whether `GET /v2/health/ready` answers 200."""
    try:
        with socket.create_connection((host, port), SECONDS) as connection:
            connection.sendall(b"GET /v2/health/ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
            status_line = connection.makefile("rb").readline(100)
    except OSError:
        return False
    return status_line.split(b" ")[1:2] == [b"200"]
