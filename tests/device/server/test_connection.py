"""One client's connection over a real socket, with an application that answers with the path it was asked for."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from targets.device.server import connection as connection_module
from targets.device.server.connection import MAX_AHEAD, Answer, Connection
from targets.device.server.connection_pool import Connections
from targets.device.server.messages import Request, Response, error_response
from targets.device.server.tensors import RequestError
from targets.device.settings import Settings

BIG = 1 << 20


@dataclass
class Paths:
    """`/slow` is answered when the test says so, `/big` with a megabyte, everything else with its path."""

    slow: list[asyncio.Future[Response]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    admitted: int = 0

    def admit(self, request: Request) -> None:
        self.admitted += 1
        request.is_admitted = True

    def enter(self, request: Request) -> None:
        pass

    def release(self, request: Request) -> None:
        self.admitted -= request.is_admitted
        request.is_admitted = False

    def answer(self, request: Request) -> Answer:
        self.asked.append(request.path)
        if request.path == "/slow":
            self.slow.append(asyncio.get_running_loop().create_future())
            return self.slow[-1]
        return Response(200, b"x" * BIG if request.path == "/big" else request.path.encode())

    def refusal(self, request: Request | None, error: RequestError) -> Response:
        return error_response(str(error), error.status)

    def sent(self, request: Request, response: Response, seconds: float) -> None:
        pass


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, bytes]:
        """Status and body; (0, b"") where the server has closed."""
        line = await self.reader.readline()
        if not line:
            return 0, b""
        length = 0
        while (header := await self.reader.readline()).strip():
            if header.lower().startswith(b"content-length"):
                length = int(header.split(b":")[1])
        return int(line.split()[1]), await self.reader.readexactly(length)

    async def answers(self) -> list[str]:
        """The bodies of all answers until the server closes."""
        found = []
        while (answer := await self.answer())[0]:
            found.append(answer[1][:20].decode())
        return found


@dataclass
class Served:
    paths: Paths
    connections: Connections
    port: int
    clients: list[Client] = field(default_factory=list)

    async def client(self, **options: int) -> Client:
        made = Client(*await asyncio.open_connection("127.0.0.1", self.port, **options))
        self.clients.append(made)
        return made


@asynccontextmanager
async def served(**settings: int) -> AsyncIterator[Served]:
    given, loop = Settings(**settings), asyncio.get_running_loop()  # type: ignore[arg-type]
    paths, connections = Paths(), Connections(given.max_connections)
    server = await loop.create_server(lambda: Connection(paths, connections, given), "127.0.0.1", 0)
    made = Served(paths, connections, server.sockets[0].getsockname()[1])
    try:
        yield made
    finally:
        for each in made.clients:
            each.writer.transport.abort()
        server.close()
        await connections.end(5)
    assert paths.admitted == 0


def run(test: Callable[[Served], Awaitable[None]], **settings: int) -> None:
    async def within() -> None:
        async with served(**settings) as made:
            await asyncio.wait_for(test(made), 30)

    asyncio.run(within())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: test", *headers, "", ""]).encode()


def done(future: asyncio.Future[Response]) -> None:
    future.set_result(Response(200, b"/slow"))


def test_requests_sent_ahead_are_answered_in_order() -> None:
    async def test(server: Served) -> None:
        client = await server.client()
        client.send(get("/slow") + get("/1") + get("/2") + get("/3", "Connection: close") + get("/4"))
        await until(lambda: bool(server.paths.slow))
        done(server.paths.slow[0])
        assert await client.answers() == ["/slow", "/1", "/2", "/3"]

    run(test)


def test_a_client_that_has_closed_its_half_gets_all_its_answers() -> None:
    async def test(server: Served) -> None:
        client = await server.client()
        client.send(get("/slow") + get("/1") + get("/2"))
        client.writer.write_eof()
        await until(lambda: bool(server.paths.slow))
        await asyncio.sleep(0.05)
        done(server.paths.slow[0])
        assert await client.answers() == ["/slow", "/1", "/2"]

    run(test)


def test_answers_before_a_broken_request_go_out() -> None:
    async def test(server: Served) -> None:
        client = await server.client()
        client.send(get("/slow") + get("/1") + b"\x00\x00")
        await until(lambda: bool(server.paths.slow))
        done(server.paths.slow[0])
        assert await client.answers() == ["/slow", "/1"]

    run(test)


def test_a_client_that_sends_many_ahead_keeps_nobody_waiting() -> None:
    async def test(server: Served) -> None:
        greedy, other = await server.client(), await server.client()
        greedy.send(get("/greedy") * 80)
        other.send(get("/other"))
        assert await other.answer() == (200, b"/other")
        assert server.paths.asked.index("/other") < 40
        for _ in range(80):
            assert await greedy.answer() == (200, b"/greedy")

    run(test)


def test_too_many_sent_ahead_end_the_connection_after_their_answers() -> None:
    async def test(server: Served) -> None:
        client = await server.client()
        client.send(get("/a") * (3 * MAX_AHEAD))
        answered = await client.answers()
        assert MAX_AHEAD <= len(answered) <= MAX_AHEAD + 1

    run(test)


def test_answers_are_not_made_faster_than_the_client_takes_them() -> None:
    async def test(server: Served) -> None:
        client = await server.client(limit=1000)
        client.send(get("/big") * 60)
        await until(lambda: len(server.paths.asked) > 0)
        await asyncio.sleep(0.3)
        # What the kernel's buffers take, and one more.
        assert len(server.paths.asked) < 20
        for _ in range(60):
            assert (await client.answer())[0] == 200

    run(test)


def test_a_slow_reader_gets_its_last_answer_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "LINGER_SECONDS", 0.1)

    async def test(server: Served) -> None:
        receiver = socket.socket()
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        receiver.setblocking(False)
        await asyncio.get_running_loop().sock_connect(receiver, ("127.0.0.1", server.port))
        client = Client(*await asyncio.open_connection(sock=receiver, limit=1000))
        server.clients.append(client)
        client.send(get("/big") * 8 + get("/big", "Connection: close"))
        await asyncio.sleep(1.2)
        for _ in range(9):
            assert len((await client.answer())[1]) == BIG

    run(test)


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (b"GET / HT", 408, b"head of the request did not arrive within 1 s (HEAD_SECONDS)"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc", 408, b"within 1 s (BODY_SECONDS)"),
        (get("/slow"), 503, b"no response within 1 s (REQUEST_SECONDS)"),
        (get("/a") + b"GET / HT", 408, b"HEAD_SECONDS"),
        (b"", 0, b""),
    ],
)
def test_whatever_a_client_makes_us_wait_for_has_a_limit(sent: bytes, status: int, message: bytes) -> None:
    async def test(server: Served) -> None:
        client = await server.client()
        client.send(sent)
        answer = await client.answer()
        if answer == (200, b"/a"):
            answer = await client.answer()
        assert answer[0] == status
        assert message in answer[1]
        await until(lambda: server.paths.admitted == 0)

    run(test, head_seconds=1, body_seconds=1, request_seconds=1, idle_seconds=1)


def test_a_connection_goes_on_after_an_answer_that_came_too_late() -> None:
    async def test(server: Served) -> None:
        client = await server.client()
        client.send(get("/slow") + get("/1"))
        assert (await client.answer())[0] == 503
        assert server.paths.slow[0].cancelled()
        assert await client.answer() == (200, b"/1")

    run(test, request_seconds=1)


def test_an_idle_connection_makes_room_for_a_new_one() -> None:
    async def test(server: Served) -> None:
        idle, busy = await server.client(), await server.client()
        busy.send(get("/slow"))
        await until(lambda: bool(server.paths.slow))
        new = await server.client()
        new.send(get("/new"))
        assert await new.answer() == (200, b"/new")
        assert await idle.answer() == (0, b"")
        done(server.paths.slow[0])
        assert await busy.answer() == (200, b"/slow")

    run(test, max_connections=2)


def test_where_all_are_busy_a_new_client_reads_why_it_is_refused() -> None:
    async def test(server: Served) -> None:
        busy = await server.client()
        busy.send(get("/slow"))
        await until(lambda: bool(server.paths.slow))
        for _ in range(5):
            new = await server.client()
            # Sent at once, as clients do; closed over it, the answer would be destroyed on its way.
            new.send(get("/new") * 100)
            status, body = await new.answer()
            assert (status, b"1 connections are open and busy (MAX_CONNECTIONS)" in body) == (503, True)
            assert await new.answer() == (0, b"")
        assert len(server.connections) == 1
        done(server.paths.slow[0])
        assert await busy.answer() == (200, b"/slow")

    run(test, max_connections=1)


def test_one_that_takes_no_answers_does_not_outlive_its_place() -> None:
    async def test(server: Served) -> None:
        silent = await server.client(limit=1000)
        # One answer of eight megabytes is more than the kernel takes.
        server.paths.answer = lambda request: Response(200, b"x" * 8 * BIG)  # type: ignore[method-assign]
        silent.send(get("/"))
        await asyncio.sleep(0.3)
        assert len(server.connections) == 1
        (kept,) = server.connections._members
        await server.client()
        await asyncio.sleep(0.3)
        assert len(server.connections) == 1
        transport = kept._transport  # type: ignore[attr-defined]
        assert transport.get_write_buffer_size() == 0

    run(test, max_connections=1)


def test_the_end_waits_for_what_is_at_hand_alone() -> None:
    async def test(server: Served) -> None:
        idle, busy, half = [await server.client() for _ in range(3)]
        busy.send(get("/slow") + get("/1"))
        half.send(b"GET /half HT")
        await until(lambda: bool(server.paths.slow))
        ending = asyncio.ensure_future(server.connections.end(10))
        assert await idle.answer() == (0, b"")
        half.send(b"TP/1.1\r\nHost: a\r\n\r\n")
        assert await half.answers() == ["/half"]
        done(server.paths.slow[0])
        assert await busy.answers() == ["/slow", "/1"]
        for client in (busy, half):
            client.writer.close()
        assert await ending == 0

    run(test)


def test_the_end_does_not_wait_for_ever() -> None:
    async def test(server: Served) -> None:
        client = await server.client()
        client.send(get("/slow"))
        await until(lambda: bool(server.paths.slow))
        assert await server.connections.end(0.1) == 1

    run(test)
