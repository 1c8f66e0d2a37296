"""Requests out of a connection's bytes: llhttp (httptools) reads HTTP/1.1, this keeps what it finds within limits."""

from __future__ import annotations

import logging
from typing import Any, Dict, List, Optional, Protocol, Tuple, Union, cast

import httptools

from targets.device.messages import Request
from targets.device.tensors import BUG, RequestError

LOG = logging.getLogger(__name__)
MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 100
# What a request and each of its headers take in Python's objects, measured.
REQUEST_BYTES, HEADER_BYTES = 600, 150
# A body of up to this size is read to its end although its request is refused, so that the connection can go on.
DISCARDED_BYTES = 1 << 20
# Of each of these a proxy may take the first where we would take the last.
SINGLE = (
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"content-encoding",
    b"authorization",
    b"inference-header-content-length",
    b"expect",
)


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
        self._begun = self._completed = 0
        self._head_bytes = 0
        """Of the address and the headers that are complete."""
        self._held_bytes = 0
        """Fed since the last thing that was complete; the parser may hold them."""
        self._url = b""
        self._headers: List[Tuple[bytes, bytes]] = []
        self._body: Union[bytes, bytearray] = b""
        self._body_bytes = 0
        self.request: Optional[Request] = None
        """Whose head is here and whose body is not."""
        self.refusal: Optional[RequestError] = None
        """Why the request that is being read will be refused once it is complete."""
        self.is_over = False
        """Nothing more is read."""
        self.is_within_head = False
        self.is_within_body = False

    @property
    def head_bytes(self) -> int:
        """What the head takes here, roughly: most of a small header is the objects that it is made of."""
        size = self._head_bytes + (self._held_bytes if self.is_within_head else 0)
        return REQUEST_BYTES + HEADER_BYTES * len(self._headers) + 2 * size

    @property
    def body_bytes(self) -> int:
        """Of the body on its way."""
        return self._body_bytes

    def feed(self, data: bytes) -> None:
        before, completed = self._progress(), self._completed
        while data and not self.is_over:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as offer:
                data = self._without_offer() + data[offer.args[0] :]
            except httptools.HttpParserCallbackError as error:
                LOG.error("a request could not be read", exc_info=error.__context__)
                self._refuse(RequestError(BUG, status=500))
            except httptools.HttpParserError as error:
                self._refuse(RequestError(f"the request is no valid HTTP: {error}"))
        if self.is_within_head or self.is_within_body:
            if self._progress() == before:
                self._held_bytes += len(data)
            else:
                # Behind a body in the same data it cannot be told where the head began; it counts from the next on.
                self._held_bytes = self._unfinished(data) if self._completed == completed else 0
            self._check_head(self._head_bytes + self._held_bytes if self.is_within_head else self._held_bytes)

    def give_up(self) -> Optional[Request]:
        """Read no further; the request of which only a part has come."""
        self.is_over = True
        self.is_within_head = self.is_within_body = False
        request, self.request = self.request, None
        self._body = b""
        return request

    def close(self) -> None:
        """The connection is gone: without the circle of references its memory is free at once."""
        self._reading = self._parser = cast(Any, None)

    # httptools' callbacks

    def on_message_begin(self) -> None:
        if self.is_over:
            return
        self._begun += 1
        self._head_bytes = self._held_bytes = self._body_bytes = 0
        self._url, self._headers, self._body, self.refusal, self.request = b"", [], b"", None, None
        self.is_within_head = True
        self._reading.on_begin()

    def on_url(self, url: bytes) -> None:
        if self._head_bytes <= MAX_HEAD_BYTES:
            self._url += url
            self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes behind a chunked body is no header of ours.
        if self.is_within_head and len(self._headers) <= MAX_HEADERS:
            self._headers.append((name, value))
            self._head_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        self._check_head(self._head_bytes)
        # An offer of another protocol: it comes again without it.
        if self.is_over or self._parser.should_upgrade():
            return
        names = [name.lower() for name, _ in self._headers]
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._headers}
        request = self.request = Request(self._parser.get_method().decode(), path_of(self._url), headers)
        request.head_bytes = self.head_bytes
        self._headers = []
        request.is_http_1_0 = self._parser.get_http_version() == "1.0"
        self.is_within_head, self.is_within_body = False, True
        refusal = _leniency(names, self._parser.get_http_version())
        if refusal is not None:
            self._refuse(refusal)
            return
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
        request = self.request
        if self.is_over or self.refusal is not None or request is None:
            return
        if self._body_bytes > request.max_body_bytes:
            # A chunked body announces no size.
            self._refuse(body_too_large(request.max_body_bytes))
        elif request.is_admitted:
            # What is not admitted has no use for a body, and may not fill the memory.
            self._append(body)

    def on_message_complete(self) -> None:
        self._completed += 1
        request, self.request = self.request, None
        if self.is_over or request is None:
            return
        self.is_within_body = False
        request.body, self._body = bytes(self._body), b""
        self._reading.on_request(request, self.refusal, keeps=self._parser.should_keep_alive())

    def _append(self, body: bytes) -> None:
        # Most bodies come in one piece, which is not copied; a list of tiny ones would take many times their size.
        if not self._body:
            self._body = body
            return
        if isinstance(self._body, bytes):
            self._body = bytearray(self._body)
        self._body += body

    def _unfinished(self, data: bytes) -> int:
        """Bytes at the end of `data` that make no whole header yet; an address is counted as it comes."""
        last = data.rfind(b"\n")
        return 0 if last < 0 or not self.is_within_head else len(data) - last - 1

    def _progress(self) -> Tuple[int, int, int]:
        """Changes with everything that is complete."""
        return self._begun, self._head_bytes, self._body_bytes

    def _without_offer(self) -> bytes:
        """The head that offers another protocol, but for the offer, to be read anew as HTTP/1.1.

        A server may pass over the offer (RFC 9110, section 7.8), but the parser stops after such a head.
        """
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        self._parser = httptools.HttpRequestParser(self)
        if method == b"CONNECT":
            self._refuse(RequestError("Method Not Allowed: this server is no proxy", status=405))
            return b""
        kept = [(name, value) for name, value in self._headers if name.lower() != b"upgrade"]
        lines = [b"%s %s HTTP/%s" % (method, self._url, version), *(b"%s: %s" % each for each in kept)]
        return b"\r\n".join([*lines, b"", b""])

    def _check_head(self, size: int) -> None:
        if size > MAX_HEAD_BYTES or len(self._headers) > MAX_HEADERS:
            message = f"the head of the request has more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers"
            self._refuse(RequestError(message, status=431))

    def _refuse(self, error: RequestError) -> None:
        if not self.is_over:
            self._reading.on_refused(self.give_up(), error)


def _leniency(names: List[bytes], version: str) -> Optional[RequestError]:
    """Why a head is refused that another server on the way might read differently."""
    if version not in ("1.0", "1.1"):
        return RequestError(f"HTTP/{version} is not spoken here; use HTTP/1.1", status=505)
    for name in SINGLE:
        if names.count(name) > 1:
            return RequestError(f"the request has several {name.decode()} headers; send one")
    if version == "1.0" and b"transfer-encoding" in names:
        return RequestError("HTTP/1.0 knows no transfer-encoding; use HTTP/1.1")
    return None


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
