"""The end of one gRPC connection; gRPC's asyncio has none, and keeps what is not taken until the client goes."""

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
    """Shut down the connection to our `port` of what gRPC calls `peer`: ipv4:127.0.0.1:4242; False: there is none."""
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
                # It listens, or has gone meanwhile.
                continue
    return found


def _socket(file: int) -> Optional[socket.socket]:
    """What the file is, if it is a socket, under a number of its own."""
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
