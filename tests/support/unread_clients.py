"""A client that sends as much as is taken and reads nothing."""

import socket


def push(client: socket.socket, data: bytes) -> None:
    """As much as it takes at once."""
    client.setblocking(False)
    try:
        while data:
            data = data[client.send(data) :]
    except OSError:
        # Full, or cut off by now.
        return
