"""HTTP requests and responses inside the server."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Dict, List, Optional, Sequence, Tuple

from targets.device.server.client_memory import Share

JSON = "application/json"
HTML = "text/html; charset=utf-8"
BINARY = "application/octet-stream"
SMALL_BODY_BYTES = 64 << 10
# An error may echo client input, which no browser must interpret as HTML.
NOSNIFF = b"X-Content-Type-Options: nosniff\r\n"
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Request:
    """A request; names in `headers` are lower-case, and of repeated ones the last is kept."""

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
        """Without the query, still percent-encoded."""
        self.headers = headers
        self.body = b""
        self.has_certificate = False
        """Whether the client has presented a certificate signed by the server's CA."""
        self.head_bytes = 0
        """Approximate memory of its head."""
        self.is_admitted = False
        """Whether its body is read."""
        self.share: Optional[Share] = None
        """Share of the memory for bodies; only for an admitted request."""
        self.has_place = False
        """Whether it has a place among the requests waiting for the model."""
        self.is_http_1_0 = False
        self.max_body_bytes = SMALL_BODY_BYTES
        """Larger only for requests that have a share of the memory."""


class Response:
    """A complete response."""

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
        """Whether the connection closes after it."""
        self.images = 0
        """Number of images, for a response to an inference request."""

    def head(self, *, keeps: bool, is_http_1_0: bool, date: bytes) -> bytes:
        """Return status line and headers; `date` is a complete header line."""
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
    """Return a response with `raw` as JSON body."""
    return Response(status, json.dumps(raw, separators=(",", ":")).encode(), headers=headers)


def error_response(
    message: str, status: int, headers: Sequence[Tuple[str, str]] = (), *, closes: bool = False
) -> Response:
    """Return the protocol's error response: `{"error": …}`."""
    # A client's name may contain a lone surrogate, which is not valid UTF-8.
    body = json.dumps({"error": message}).encode()
    return Response(status, body, headers=headers, closes=closes)
