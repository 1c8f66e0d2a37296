"""Ask the server of this container whether it is ready; imports next to nothing, as it runs every half minute."""

from __future__ import annotations

import socket

SECONDS = 4.0


def is_ready(port: int, host: str = "127.0.0.1") -> bool:
    """Whether `GET /v2/health/ready` answers 200; 0.0.0.0 and :: lead to this machine itself on Linux."""
    try:
        with socket.create_connection((host, port), SECONDS) as connection:
            connection.sendall(b"GET /v2/health/ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
            with connection.makefile("rb") as answer:
                status_line = answer.readline(100)
    # OverflowError: no port has such a number.
    except (OSError, OverflowError):
        return False
    return status_line.split()[1:2] == [b"200"]
