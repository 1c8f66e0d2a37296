"""Check whether the server of this container is ready; imports very little, as it runs every 30 s."""

from __future__ import annotations

import socket
from contextlib import closing

SECONDS = 4.0


def is_ready(port: int, host: str = "127.0.0.1", *, is_tls: bool = False) -> bool:
    """Return whether `GET /v2/health/ready` answers 200; on Linux, 0.0.0.0 and :: connect to this machine."""
    try:
        with closing(_connect(port, host, is_tls)) as connection:
            connection.sendall(b"GET /v2/health/ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
            with connection.makefile("rb") as answer:
                status_line = answer.readline(100)
    # OverflowError: the port is above 65535.
    except (OSError, OverflowError):
        return False
    return status_line.split()[1:2] == [b"200"]


def _connect(port: int, host: str, is_tls: bool) -> socket.socket:
    connection = socket.create_connection((host, port), SECONDS)
    if not is_tls:
        return connection
    # Imported only here, because it takes longer than all the rest.
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The connection is local: the certificate names the external host, and no secret is sent.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        return context.wrap_socket(connection)
    except OSError:
        connection.close()
        raise
