"""Read requests from a connection's bytes: llhttp (httptools) parses HTTP/1.1, and this module enforces limits."""

from __future__ import annotations

import logging
from typing import Any, Dict, List, Optional, Protocol, Tuple, Union, cast

import httptools

from targets.device.server.messages import Request
from targets.device.server.tensors import BUG, RequestError

LOG = logging.getLogger(__name__)
MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 100
# Measured memory of a request, and of each of its headers, as Python objects.
REQUEST_BYTES, HEADER_BYTES = 600, 150
# The body of a refused request is read to its end up to this size, so that the connection stays usable.
DISCARDED_BYTES = 1 << 20
# Duplicates are refused: a proxy may use the first of these headers, where this server uses the last.
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
    """The callbacks of a connection."""

    def on_begin(self) -> None:
        """Handle the first byte of a request."""

    def on_head(self, request: Request) -> None:
        """Handle the complete head; raise `RequestError` to refuse the request."""

    def on_request(self, request: Request, refusal: Optional[RequestError], *, keeps: bool) -> None:
        """Handle the complete request; `keeps`: the client keeps the connection alive."""

    def on_refused(self, request: Optional[Request], error: RequestError) -> None:
        """Answer at once and stop reading: the rest is not needed, or cannot be separated from the next request."""

    def on_continue(self) -> None:
        """Send `100 Continue`, for which the client waits before sending the body."""


class Reader:
    """Parser of one connection's data, which calls the connection's callbacks."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._parser = httptools.HttpRequestParser(self)
        self._begun = self._completed = 0
        self._head_bytes = 0
        """Size of the URL and the complete headers."""
        self._held_bytes = 0
        """Bytes since the last complete element, which the parser may buffer."""
        self._url = b""
        self._headers: List[Tuple[bytes, bytes]] = []
        self._body: Union[bytes, bytearray] = b""
        self._body_bytes = 0
        self.request: Optional[Request] = None
        """The request whose head is complete and whose body is not."""
        self.refusal: Optional[RequestError] = None
        """Error with which the incoming request will be refused once it is complete."""
        self.is_over = False
        """Reading has stopped."""
        self.is_within_head = False
        self.is_within_body = False

    @property
    def head_bytes(self) -> int:
        """Approximate memory of the head; for small headers it is mostly object overhead."""
        size = self._head_bytes + (self._held_bytes if self.is_within_head else 0)
        return REQUEST_BYTES + HEADER_BYTES * len(self._headers) + 2 * size

    @property
    def body_bytes(self) -> int:
        """Received bytes of the incoming body."""
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
                self._refuse(RequestError(f"the request is not valid HTTP: {error}"))
        if self.is_within_head or self.is_within_body:
            if self._progress() == before:
                self._held_bytes += len(data)
            else:
                # After a body in the same data, the start of the head is unknown; it counts from the next data on.
                self._held_bytes = self._unfinished(data) if self._completed == completed else 0
            self._check_head(self._head_bytes + self._held_bytes if self.is_within_head else self._held_bytes)

    def give_up(self) -> Optional[Request]:
        """Stop reading and return the incomplete request, if any."""
        self.is_over = True
        self.is_within_head = self.is_within_body = False
        request, self.request = self.request, None
        self._body = b""
        return request

    def close(self) -> None:
        """Break the reference cycle, so that the closed connection's memory is freed at once."""
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
        # Trailers after a chunked body are ignored.
        if self.is_within_head and len(self._headers) <= MAX_HEADERS:
            self._headers.append((name, value))
            self._head_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        self._check_head(self._head_bytes)
        # An upgrade offer: the head is parsed again without it.
        if self.is_over or self._parser.should_upgrade():
            return
        names = [name.lower() for name, _ in self._headers]
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._headers}
        request = self.request = Request(self._parser.get_method().decode(), path_of(self._url), headers)
        request.head_bytes = self.head_bytes
        self._headers = []
        request.is_http_1_0 = self._parser.get_http_version() == "1.0"
        self.is_within_head, self.is_within_body = False, True
        refusal = _check_ambiguity(names, self._parser.get_http_version())
        if refusal is not None:
            self._refuse(refusal)
            return
        if "host" not in headers and not request.is_http_1_0:
            self._refuse(RequestError("the request has no Host header, which HTTP/1.1 requires"))
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
            # A chunked body has no announced size.
            self._refuse(body_too_large(request.max_body_bytes))
        elif request.is_admitted:
            # The body of a request that is not admitted is discarded.
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
        # Most bodies arrive in one piece, which is not copied; a list of small pieces would take much more memory.
        if not self._body:
            self._body = body
            return
        if isinstance(self._body, bytes):
            self._body = bytearray(self._body)
        self._body += body

    def _unfinished(self, data: bytes) -> int:
        """Return the bytes at the end of `data` that are not a complete header yet; the URL is counted separately."""
        last = data.rfind(b"\n")
        return 0 if last < 0 or not self.is_within_head else len(data) - last - 1

    def _progress(self) -> Tuple[int, int, int]:
        """Return a value that changes with every complete element."""
        return self._begun, self._head_bytes, self._body_bytes

    def _without_offer(self) -> bytes:
        """Return the head without its upgrade offer, to be parsed again as HTTP/1.1.

        A server may ignore the offer (RFC 9110, section 7.8), but the parser stops after such a head.
        """
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        self._parser = httptools.HttpRequestParser(self)
        if method == b"CONNECT":
            self._refuse(RequestError("Method Not Allowed: this server is not a proxy", status=405))
            return b""
        kept = [(name, value) for name, value in self._headers if name.lower() != b"upgrade"]
        lines = [b"%s %s HTTP/%s" % (method, self._url, version), *(b"%s: %s" % each for each in kept)]
        return b"\r\n".join([*lines, b"", b""])

    def _check_head(self, size: int) -> None:
        if size > MAX_HEAD_BYTES or len(self._headers) > MAX_HEADERS:
            message = f"the head of the request is larger than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers"
            self._refuse(RequestError(message, status=431))

    def _refuse(self, error: RequestError) -> None:
        if not self.is_over:
            self._reading.on_refused(self.give_up(), error)


def _check_ambiguity(names: List[bytes], version: str) -> Optional[RequestError]:
    """Return an error for a head that another server in the path might interpret differently; otherwise None."""
    if version not in ("1.0", "1.1"):
        return RequestError(f"HTTP/{version} is not supported; use HTTP/1.1", status=505)
    for name in SINGLE:
        if names.count(name) > 1:
            return RequestError(f"the request has several {name.decode()} headers; send one")
    if version == "1.0" and b"transfer-encoding" in names:
        return RequestError("HTTP/1.0 has no transfer-encoding; use HTTP/1.1")
    return None


def body_too_large(limit: int) -> RequestError:
    return RequestError(f"the body is larger than the limit of {limit} bytes (MAX_BODY_MIB)", status=413)


def path_of(url: bytes) -> str:
    """Return the path of `/a?b`, or of the absolute form that proxies use, still percent-encoded."""
    if not url.startswith(b"/"):
        try:
            url = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            return "*"
    return url.partition(b"?")[0].decode("latin-1")


def _announced(headers: Dict[str, str]) -> int:
    text = headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else 0
