"""gRPC calls over a bare socket, of a client that gives no room for answers: no library's would do that."""

import socket
import struct

from device_server import HOST

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header as HPACK has it that is in no table and not compressed."""
    assert max(len(name), len(value)) < 127
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def call(path: str, message: bytes, stream: int) -> bytes:
    """One call; the message fits into a frame."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": HOST,
        "content-type": "application/grpc",
        "te": "trailers",  # codespell:ignore te
    }
    head = b"".join(literal(*each) for each in headers.items())
    body = b"\x00" + struct.pack(">I", len(message)) + message
    return frame(HEADERS, END_HEADERS, stream, head) + frame(DATA, END_STREAM, stream, body)


def connected_without_room(address: str) -> socket.socket:
    """A connection whose streams may send nothing; it never reads."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), 30)
    settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(SETTINGS, ACK, 0, b""))
    return connection
