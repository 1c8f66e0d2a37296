"""Ask the server of this container whether it is ready; imports next to nothing, as it runs every half minute."""

from __future__ import annotations

import socket
from contextlib import closing

SECONDS = 4.0


def is_ready(port: int, host: str = "127.0.0.1", *, is_tls: bool = False) -> bool:
    """Whether `GET /v2/health/ready` answers 200; 0.0.0.0 and :: lead to this machine itself on Linux."""
    try:
        with closing(_connect(port, host, is_tls)) as connection:
            connection.sendall(b"GET /v2/health/ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
            with connection.makefile("rb") as answer:
                status_line = answer.readline(100)
    # OverflowError: no port has such a number.
    except (OSError, OverflowError):
        return False
    return status_line.split()[1:2] == [b"200"]


def _connect(port: int, host: str, is_tls: bool) -> socket.socket:
    connection = socket.create_connection((host, port), SECONDS)
    if not is_tls:
        return connection
    # Here alone: it takes longer to import than all the rest.
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # We speak to ourselves: the certificate names whoever others reach us as, and no secret is sent.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        return context.wrap_socket(connection)
    except OSError:
        connection.close()
        raise
