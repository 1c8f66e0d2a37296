"""HTTP requests and responses as the server's parts hand them to each other."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Dict, List, Optional, Sequence, Tuple

from targets.device.budget import Share

JSON = "application/json"
HTML = "text/html; charset=utf-8"
BINARY = "application/octet-stream"
SMALL_BODY_BYTES = 64 << 10
# An error repeats what the client has sent: no browser shall take it for a page.
NOSNIFF = b"X-Content-Type-Options: nosniff\r\n"
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Request:
    """One request; `headers` have lower-case names, and the last of several of one name."""

    __slots__ = (
        "body",
        "has_certificate",
        "has_place",
        "head_bytes",
        "headers",
        "is_admitted",
        "is_http_1_0",
        "max_body_bytes",
        "method",
        "path",
        "share",
    )

    def __init__(self, method: str, path: str, headers: Dict[str, str]) -> None:
        self.method = method
        self.path = path
        """Without the query, percent signs as they came."""
        self.headers = headers
        self.body = b""
        self.has_certificate = False
        """Whether the client has shown a certificate that the server's authority signed."""
        self.head_bytes = 0
        """What its head takes here, roughly."""
        self.is_admitted = False
        """Whether its body is wanted."""
        self.share: Optional[Share] = None
        """Of the memory for bodies; only of one that is admitted."""
        self.has_place = False
        """Whether it is one of those that wait for the model."""
        self.is_http_1_0 = False
        self.max_body_bytes = SMALL_BODY_BYTES
        """More only for requests that have a share of the memory."""


class Response:
    """One answer, whole."""

    __slots__ = ("body", "closes", "content_type", "headers", "images", "status")

    def __init__(
        self,
        status: int,
        body: bytes,
        content_type: str = JSON,
        headers: Sequence[Tuple[str, str]] = (),
        *,
        closes: bool = False,
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers
        self.closes = closes
        """Whether the connection ends with it."""
        self.images = 0
        """Of an answer to a request to infer."""

    def head(self, *, keeps: bool, is_http_1_0: bool, date: bytes) -> bytes:
        """Status line and headers, up to the body; `date` is a whole header line."""
        parts: List[bytes] = [_STATUS_LINES[self.status], date, NOSNIFF]
        parts.append(f"Content-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n".encode())
        parts += [f"{name}: {value}\r\n".encode("latin-1", "replace") for name, value in self.headers]
        if not keeps:
            parts.append(b"Connection: close\r\n")
        elif is_http_1_0:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)


def json_response(raw: object, status: int = 200, headers: Sequence[Tuple[str, str]] = ()) -> Response:
    """`raw` as the body."""
    return Response(status, json.dumps(raw, separators=(",", ":")).encode(), headers=headers)


def error_response(
    message: str, status: int, headers: Sequence[Tuple[str, str]] = (), *, closes: bool = False
) -> Response:
    """The protocol's form of every refusal: `{"error": …}`."""
    # A name that came in may hold half a surrogate pair, which is no UTF-8.
    body = json.dumps({"error": message}).encode()
    return Response(status, body, headers=headers, closes=closes)
