"""Close a single gRPC connection, which grpc.aio cannot do: it keeps unread data until the client disconnects."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Optional, Tuple
from urllib.parse import unquote

FAMILIES = (socket.AF_INET, socket.AF_INET6)
Address = Tuple[str, int]


def cut(peer: str, port: int) -> bool:
    """Shut down the connection of `peer`, e.g. ipv4:127.0.0.1:4242, to our `port`; return False if there is none."""
    wanted = _address(*unquote(peer).partition(":")[2].rpartition(":")[::2])
    found = False
    for file in Path("/proc/self/fd").iterdir():
        connection = _socket(int(file.name))
        if connection is None:
            continue
        with connection:
            try:
                if connection.family not in FAMILIES or connection.getsockname()[1] != port:
                    continue
                if _address(*connection.getpeername()[:2]) == wanted:
                    connection.shutdown(socket.SHUT_RDWR)
                    found = True
            except OSError:
                # A listening socket, or closed meanwhile.
                continue
    return found


def _socket(file: int) -> Optional[socket.socket]:
    """Return a duplicate of the file descriptor as a socket; None if it is not one."""
    try:
        number = os.dup(file)
    except OSError:
        return None
    try:
        return socket.socket(fileno=number)
    except OSError:
        os.close(number)
        return None


def _address(host: str, port: object) -> Address:
    address = ip_address(host.strip("[]").partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), int(str(port))
