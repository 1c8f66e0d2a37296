"""Requests out of a connection's bytes: llhttp (httptools) reads HTTP/1.1, this keeps what it finds within limits."""

from __future__ import annotations

from typing import Dict, List, Optional, Protocol, Tuple

import httptools

from targets.device.messages import Request
from targets.device.tensors import RequestError

MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 100
# A body of up to this size is read to its end although its request is refused, so that the connection can go on.
DISCARDED_BYTES = 1 << 20


class Reading(Protocol):
    """The connection that is read."""

    def on_begin(self) -> None:
        """The first byte of a request is here."""

    def on_head(self, request: Request) -> None:
        """The head is here; raises `RequestError` where it says enough to refuse."""

    def on_request(self, request: Request, refusal: Optional[RequestError], *, keeps: bool) -> None:
        """The request is complete; `keeps`: the client will send more on this connection."""

    def on_refused(self, request: Optional[Request], error: RequestError) -> None:
        """Answer at once and read no further: the rest is not wanted, or cannot be told from the next request."""

    def on_continue(self) -> None:
        """The client waits for a word before it sends the body."""


class Reader:
    """Feed it what arrives; it calls the connection."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._parser = httptools.HttpRequestParser(self)
        self._head_bytes = 0
        self._url = b""
        self._headers: List[Tuple[bytes, bytes]] = []
        self._body: List[bytes] = []
        self._body_bytes = 0
        self._request: Optional[Request] = None
        self.refusal: Optional[RequestError] = None
        """Why the request that is being read will be refused once it is complete."""
        self.is_over = False
        """Nothing more is read."""
        self.is_within_head = False
        self.is_within_body = False

    def feed(self, data: bytes) -> None:
        if self.is_over:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Its request is complete and is answered as any other; what follows is no HTTP of ours.
            self.is_over = True
        except httptools.HttpParserError as error:
            self._refuse(RequestError(f"the request is no valid HTTP: {error}"))
        else:
            if self.is_within_head:
                self._head_bytes += len(data)
                self._check_head()

    def give_up(self) -> Optional[Request]:
        """Read no further; the request of which only a part has come."""
        self.is_over = True
        self.is_within_head = self.is_within_body = False
        request, self._request = self._request, None
        self._body = []
        return request

    # httptools' callbacks; what is raised in one of them would come out as an error of the client's.

    def on_message_begin(self) -> None:
        if self.is_over:
            return
        self._head_bytes = self._body_bytes = 0
        self._url, self._headers, self._body, self.refusal, self._request = b"", [], [], None, None
        self.is_within_head = True
        self._reading.on_begin()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self._headers) <= MAX_HEADERS:
            self._headers.append((name, value))
            self._head_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        self._check_head()
        if self.is_over:
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._headers}
        request = self._request = Request(self._parser.get_method().decode(), path_of(self._url), headers)
        request.is_http_1_0 = self._parser.get_http_version() == "1.0"
        self.is_within_head, self.is_within_body = False, True
        if "host" not in headers and not request.is_http_1_0:
            self._refuse(RequestError("the request has no Host header, which HTTP/1.1 asks for"))
            return
        try:
            self._reading.on_head(request)
        except RequestError as error:
            self.refusal = error
            if "expect" in headers or "transfer-encoding" in headers or _announced(headers) > DISCARDED_BYTES:
                self._refuse(error)
            return
        if headers.get("expect", "").lower() == "100-continue":
            self._reading.on_continue()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        request = self._request
        if self.is_over or self.refusal is not None or request is None:
            return
        if self._body_bytes > request.max_body_bytes:
            # A chunked body announces no size.
            self._refuse(body_too_large(request.max_body_bytes))
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        request, self._request = self._request, None
        if self.is_over or request is None:
            return
        self.is_within_body = False
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._reading.on_request(request, self.refusal, keeps=self._parser.should_keep_alive())

    def _check_head(self) -> None:
        if self._head_bytes > MAX_HEAD_BYTES or len(self._headers) > MAX_HEADERS:
            message = f"the head of the request has more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers"
            self._refuse(RequestError(message, status=431))

    def _refuse(self, error: RequestError) -> None:
        if not self.is_over:
            self._reading.on_refused(self.give_up(), error)


def body_too_large(limit: int) -> RequestError:
    return RequestError(f"the body is larger than the {limit} bytes that are taken (MAX_BODY_MIB)", status=413)


def path_of(url: bytes) -> str:
    """Of `/a?b`, and of the absolute form that proxies use; percent signs stay."""
    if not url.startswith(b"/"):
        try:
            url = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            return "*"
    return url.partition(b"?")[0].decode("latin-1")


def _announced(headers: Dict[str, str]) -> int:
    text = headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else 0
