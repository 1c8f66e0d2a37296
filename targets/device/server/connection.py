"""A client's connection: requests are answered in order, and every wait for the client has a timeout.

Written instead of using a general HTTP server, none of which was found to limit the time for a head, or to close idle
connections when all places are taken. `benchmarks/compare_servers.py` compares the overhead at batch 1.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from collections import deque
from typing import Deque, Optional, Protocol, Tuple, Union, cast

from targets.device.server.client_memory import Share
from targets.device.server.connection_pool import Connections
from targets.device.server.messages import Request, Response, error_response
from targets.device.server.reader import Reader
from targets.device.server.tensors import RequestError
from targets.device.settings import Settings

Answer = Union[Response, "asyncio.Future[Response]"]
LINGER_SECONDS = 2.0
# How long a keep-alive connection may still send a request after the server begins to stop.
DRAIN_SECONDS = 1.0
HANDSHAKE_SECONDS = 10.0
# By default asyncio allocates a receive buffer of 256 KiB per TLS connection; a record has 16.
TLS_BUFFER_BYTES = 32 << 10
# Pipelined requests that may wait on a connection; reading pauses above it.
AHEAD = 4
# Pipelined requests that may be in data already read; the connection ends after them.
MAX_AHEAD = 100
# The pace of a body is checked after this time.
PACE_SECONDS = 5.0
SHAKING, IDLE, HEAD, BODY, ANSWERING, LINGERING = "shaking", "idle", "head", "body", "answering", "lingering"


class Application(Protocol):
    """The handler of a connection's requests."""

    def admit(self, request: Request) -> None:
        """Check the head before the body is read; raise `RequestError` to refuse the request."""

    def enter(self, request: Request) -> None:
        """Accept a complete request; raise `RequestError` if too many are waiting."""

    def release(self, request: Request) -> None:
        """Release the request's resources: it was answered or dropped, or its client disconnected."""

    def answer(self, request: Request) -> Answer:
        """Return the response or a future; never raise."""

    def refusal(self, request: Optional[Request], error: RequestError) -> Response:
        """Return the response to a refused request; `request` is None if it could not be parsed."""

    def sent(self, request: Request, response: Response, seconds: float) -> None:
        """Record a sent response and the seconds since the request was complete."""


class Connection(asyncio.Protocol):
    """The `asyncio` protocol of one client."""

    def __init__(
        self,
        application: Application,
        connections: Connections,
        settings: Settings,
        *,
        tls: Optional[ssl.SSLContext] = None,
    ) -> None:
        self._application = application
        self._connections = connections
        self._settings = settings
        self._loop = connections.loop
        self._tls = tls
        self._handshake: Optional[asyncio.Task[None]] = None
        self._early = b""
        """Data received together with the end of the handshake."""
        self._socket = cast(asyncio.Transport, None)
        self._transport = cast(asyncio.Transport, None)
        """The socket's transport, or the TLS transport on top of it."""
        self._reader = Reader(self)
        self._state = IDLE
        self.deadline = 0.0
        """In the loop's monotonic time; checked by the connections' sweep."""
        self.arriving_since = 0.0
        """When the incoming head or body began."""
        self._waiting: Deque[Tuple[Request, Optional[RequestError], bool]] = deque()
        self._waiting_bytes = 0
        """Memory of their heads; bodies are counted separately."""
        self._share: Optional[Share] = None
        """Share of the memory held for clients; None: this client holds nothing."""
        self._answering: Optional[Tuple[Request, bool, float]] = None
        self._pending: Optional[asyncio.Future[Response]] = None
        self._is_last = False
        """No more requests are answered after the current one."""
        self._has_ended = False
        """The client has closed its sending side."""
        self._is_full = False
        """The client does not read its responses as fast as they are sent."""
        self._is_scheduled = False
        self._has_answered = False
        """One request of the latest data was answered at once; the others wait so that other clients get a turn."""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._socket = cast(asyncio.Transport, transport)
        # Pause as soon as the kernel's buffer is full. TLS treats 0 as always full.
        self._transport.set_write_buffer_limits(high=1)
        if self._tls is not None:
            # Counted from the start: a connection that has not sent anything takes memory, too.
            self.arriving_since = self._loop.time()
            self._wait(SHAKING, HANDSHAKE_SECONDS)
            if self._connections.add(self):
                self._handshake = self._loop.create_task(self._shake_hands(self._tls))
            else:
                self._transport.abort()
            return
        self._wait(IDLE, self._settings.idle_seconds)
        if not self._connections.add(self):
            message = f"{self._settings.max_connections} connections are open and busy (MAX_CONNECTIONS); try again"
            self._reader.give_up()
            self._send(error_response(message, 503, [("Retry-After", "1")], closes=True), None)
            if not self._connections.let_read(self):
                self._transport.close()

    def connection_lost(self, _error: Optional[Exception]) -> None:
        self._connections.discard(self)
        if self._pending is not None:
            self._pending.cancel()
        if self._answering is not None:
            self._application.release(self._answering[0])
        self._answering = self._pending = None
        self._drop_unanswered()
        self._reader.close()
        if self._share is not None:
            self._share.close()
            self._share = None

    def data_received(self, data: bytes) -> None:
        if self._state == SHAKING:
            self._early += data
            return
        self._has_answered = False
        self._reader.feed(data)
        if self._state == BODY:
            self._wait_for_body()
        request = self._reader.request
        if request is not None and request.share is not None:
            request.share.hold(self._reader.body_bytes)
        self._count()

    def eof_received(self) -> bool:
        # A client may close its sending side and still wait for its response; TLS has no half-close.
        self._is_last = self._has_ended = True
        return self._tls is None and not self._is_free

    def pause_writing(self) -> None:
        self._is_full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_full = False
        self._count()
        self._go_on()

    async def _shake_hands(self, tls: ssl.SSLContext) -> None:
        sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES  # type: ignore[misc, unused-ignore]
        try:
            # The sweep's timeout is earlier, unless the process was stopped meanwhile.
            transport = await self._loop.start_tls(
                self._socket, self, tls, server_side=True, ssl_handshake_timeout=2 * HANDSHAKE_SECONDS
            )
            if transport is None:
                raise ConnectionResetError("the client disconnected")
        except (OSError, asyncio.TimeoutError) as error:
            self._connections.handshake_failed(str(error) or type(error).__name__)
            self._handshake = None
            self._connections.discard(self)
            self._socket.abort()
            return
        self._handshake = None
        self._transport = transport
        self._transport.set_write_buffer_limits(high=1)
        self._wait(IDLE, self._settings.idle_seconds)
        early, self._early = self._early, b""
        if early:
            self.data_received(early)

    def _end_handshake(self) -> None:
        assert self._handshake is not None
        self._connections.handshake_failed(f"timeout after {self._loop.time() - self.arriving_since:.0f} s")
        self._handshake.cancel()
        self._handshake = None
        self._connections.discard(self)
        self._socket.abort()

    # Callbacks of the reader

    def on_begin(self) -> None:
        if self._is_free:
            self.arriving_since = self._loop.time()
            self._wait(HEAD, self._settings.head_seconds)

    def on_head(self, request: Request) -> None:
        if self._tls is not None:
            request.has_certificate = bool(self._transport.get_extra_info("peercert"))
        if self._is_free:
            self._begin_body()
        self._application.admit(request)
        if request.share is not None:
            request.share.evict = self._evict_body

    def on_continue(self) -> None:
        self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_request(self, request: Request, refusal: Optional[RequestError], *, keeps: bool) -> None:
        is_first = self._is_free and not self._has_answered
        self._waiting.append((request, refusal, keeps))
        self._waiting_bytes += request.head_bytes
        if request.share is not None:
            # It might wait for long behind responses that its client does not read.
            request.share.evict = self._evict
            request.share.hold(len(request.body))
            if not self._waiting:
                return
        if is_first:
            self._has_answered = True
            self._answer_next()
            return
        if self._answering is None:
            self._wait(ANSWERING, self._settings.request_seconds)
        if len(self._waiting) >= MAX_AHEAD:
            self._stop_reading()
        if len(self._waiting) >= AHEAD:
            self._transport.pause_reading()
        self._go_on()

    def on_refused(self, request: Optional[Request], error: RequestError) -> None:
        if not self._is_free:
            # Earlier requests are answered first, and nothing after this one.
            self._is_last = True
            if request is not None:
                self._application.release(request)
            return
        response = self._application.refusal(request, error)
        response.closes = True
        if request is not None:
            self._application.release(request)
        self._send(response, request)

    # Called by the connections' sweep and at the server's shutdown

    def on_deadline(self) -> None:
        """Handle the timeout of the current state."""
        if self._handshake is not None:
            self._end_handshake()
            return
        settings = self._settings
        if self._state == HEAD:
            self._time_out(f"the head of the request did not arrive within {settings.head_seconds} s (HEAD_SECONDS)")
        elif self._state == BODY:
            is_over = self._loop.time() >= self.arriving_since + settings.body_seconds
            self._time_out(
                f"the body did not arrive within {settings.body_seconds} s (BODY_SECONDS)"
                if is_over
                else f"the body arrives at less than {settings.body_pace} bytes per second (BODY_PACE)"
            )
        elif self._state == ANSWERING and self._answering is not None:
            if self._pending is not None:
                self._pending.cancel()
            message = f"there was no response within {settings.request_seconds} s (REQUEST_SECONDS); try again later"
            self._finish(self._application.refusal(self._answering[0], RequestError(message, status=503)))
            self._go_on()
        elif self._state == IDLE and self._is_last and not self._transport.get_write_buffer_size():
            # Not aborted: a client that has just sent data would see a reset.
            self._linger()
        else:
            # Idle too long, or the client does not read its response.
            self._transport.abort()

    def postpone(self, seconds: float) -> None:
        self.deadline += seconds
        self.arriving_since += seconds

    def end(self) -> None:
        """Close at the server's shutdown: now if idle, otherwise after the response."""
        self._is_last = True
        if self._handshake is not None:
            self._end_handshake()
        elif self.is_idle:
            # A request may be arriving: it is answered with `Connection: close`.
            self.deadline = min(self.deadline, self._loop.time() + DRAIN_SECONDS)
        elif not self._is_free:
            self._stop_reading()

    def make_room(self) -> None:
        """Close to make room for another connection; data that the client has not read is lost."""
        if self._handshake is not None:
            self._end_handshake()
        elif self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    @property
    def is_idle(self) -> bool:
        return self._state == IDLE

    @property
    def is_arriving(self) -> bool:
        return self._state in (SHAKING, HEAD, BODY)

    @property
    def _is_free(self) -> bool:
        return self._answering is None and not self._waiting

    # Answers

    def _go_on(self) -> None:
        """Answer waiting requests and resume reading, if allowed."""
        if self._state == LINGERING:
            return
        if self._waiting and self._answering is None and not self._is_full and not self._is_scheduled:
            # In the loop's next iteration, so that other clients get a turn.
            self._is_scheduled = True
            self._loop.call_soon(self._answer_next)
        if len(self._waiting) < AHEAD and not self._is_full:
            self._transport.resume_reading()

    def _answer_next(self) -> None:
        self._is_scheduled = False
        if not self._waiting or self._answering is not None or self._is_full:
            return
        request, refusal, keeps = self._waiting.popleft()
        self._waiting_bytes -= request.head_bytes
        self._answering = (request, keeps, self._loop.time())
        refusal = refusal or self._enter(request)
        answer = self._application.answer(request) if refusal is None else self._application.refusal(request, refusal)
        if isinstance(answer, Response):
            self._finish(answer)
            self._go_on()
        else:
            self._wait(ANSWERING, self._settings.request_seconds)
            self._pending = answer
            answer.add_done_callback(self._on_answer)

    def _on_answer(self, answer: asyncio.Future[Response]) -> None:
        if answer.cancelled() or self._pending is not answer:
            return
        self._finish(answer.result())
        self._go_on()

    def _finish(self, response: Response) -> None:
        """Send the response to the current request."""
        assert self._answering is not None
        request, keeps, since = self._answering
        self._answering = self._pending = None
        self._application.release(request)
        response.closes = response.closes or not keeps
        self._send(response, request)
        self._application.sent(request, response, self._loop.time() - since)

    def _send(self, response: Response, request: Optional[Request]) -> None:
        keeps = not response.closes and (not self._is_last or bool(self._waiting))
        is_http_1_0 = request is not None and request.is_http_1_0
        head = response.head(keeps=keeps, is_http_1_0=is_http_1_0, date=self._connections.date)
        is_bare = request is not None and request.method == "HEAD"
        self._transport.write(head if is_bare else head + response.body)
        if not keeps:
            self._linger()
        elif self._waiting:
            self._wait(ANSWERING, self._settings.request_seconds)
        elif self._reader.is_within_head:
            self._wait(HEAD, self._settings.head_seconds)
        elif self._reader.is_within_body:
            self._begin_body()
        else:
            self._wait(IDLE, self._settings.idle_seconds)
        # Last, because it may end the connection.
        self._count()

    def _linger(self) -> None:
        """Close the sending side and keep reading: with an immediate close, unread data would reset the response."""
        has_gone = not self._transport.get_write_buffer_size()
        self._wait(LINGERING, LINGER_SECONDS if has_gone else self._settings.idle_seconds)
        self._drop_unanswered()
        if self._tls is not None or self._has_ended:
            self._transport.close()
        else:
            self._transport.write_eof()
            self._transport.resume_reading()

    def _stop_reading(self) -> None:
        """Stop reading and drop the incomplete request; complete ones are still answered."""
        self._is_last = True
        unread = self._reader.give_up()
        if unread is not None:
            self._application.release(unread)

    def _drop_unanswered(self) -> None:
        self._stop_reading()
        for request, _, _ in self._waiting:
            self._application.release(request)
        self._waiting.clear()
        self._waiting_bytes = 0

    def _time_out(self, message: str) -> None:
        error = self._reader.refusal or RequestError(message, status=408)
        self.on_refused(self._reader.give_up(), error)

    # Memory held for the client

    def _enter(self, request: Request) -> Optional[RequestError]:
        """Accept the request, whose body is kept until it is answered; return the error if there is no place."""
        if request.share is not None:
            request.share.evict = None
        try:
            self._application.enter(request)
        except RequestError as error:
            return error
        return None

    def _evict_body(self) -> None:
        """Refuse the incoming body: bodies exceed the memory limit, and this one costs the most."""
        message = "the memory for bodies is full (MAX_WAITING times MAX_BODY_MIB), and this one is slow; try again"
        self.on_refused(self._reader.give_up(), RequestError(message, status=429))

    def _count(self) -> None:
        size = self._held_bytes()
        if self._share is None:
            if not size:
                return
            self._share = self._connections.held.open(self._evict)
        if size:
            self._share.hold(size)
        else:
            self._share.close()
            self._share = None

    def _held_bytes(self) -> int:
        size = self._waiting_bytes + self._transport.get_write_buffer_size()
        if self._tls is not None:
            size += self._socket.get_write_buffer_size()
        if self._reader.is_within_head:
            size += self._reader.head_bytes
        elif self._reader.request is not None:
            size += self._reader.request.head_bytes
        return size

    def _evict(self) -> None:
        """Close the connection: memory held for clients exceeds the limit, and this client costs the most."""
        self._transport.abort()
        self._drop_unanswered()
        if self._share is not None:
            self._share.close()
            self._share = None

    def _begin_body(self) -> None:
        self.arriving_since = self._loop.time()
        self._state = BODY
        self._wait_for_body()

    def _wait_for_body(self) -> None:
        settings = self._settings
        seconds = float(settings.body_seconds)
        if settings.body_pace:
            seconds = min(seconds, PACE_SECONDS + self._reader.body_bytes / settings.body_pace)
        self.deadline = self.arriving_since + seconds

    def _wait(self, state: str, seconds: float) -> None:
        self._state = state
        self.deadline = self._loop.time() + seconds
