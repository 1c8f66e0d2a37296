"""Clients that are slow, many, silent or greedy: they get what they deserve, and the others are served."""

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from device_server import HOST, INFER, Running, answer_of, http_request, serving
from faults import GOOD, MOODY, SECONDS, SLOW, allow_files, eventually, open_files, request_with, resident_mib
from tiny_package import write_tiny_package


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("clients") / "artifact").folder


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connected(running: Running, clients: ExitStack) -> socket.socket:
    return clients.enter_context(socket.create_connection((HOST, running.port), SECONDS))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begin", "name"),
    [
        pytest.param(b"", "HEAD_SECONDS", id="head"),
        pytest.param(
            f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n".encode(), "BODY_SECONDS", id="body"
        ),
    ],
)
def test_slow_clients_are_cut_off_and_the_others_served(
    folder: Path, tmp_path: Path, clients: ExitStack, begin: bytes, name: str
) -> None:
    with serving(folder, tmp_path / "log", HEAD_SECONDS=2, BODY_SECONDS=2, MAX_WAITING=400) as running:
        slow = [connected(running, clients) for _ in range(200)]
        over = threading.Event()

        def drip() -> None:
            for each in slow:
                each.sendall(begin)
            for byte in GOOD[:100]:
                for each in slow:
                    try:
                        each.sendall(bytes([byte]))
                    except OSError:
                        continue
                if over.wait(0.1):
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            for _ in range(50):
                assert running.ask(GOOD)[0] == 200
            for each in slow:
                status, answer = answer_of(each)
                assert (status, name in answer["error"]) == (408, True)
        finally:
            over.set()
            dripping.join(SECONDS)
        assert running.ask(GOOD)[0] == 200


def test_a_client_that_closes_its_half_gets_its_answer(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path / "log", program=MOODY) as running:
        for sent in (GOOD, request_with(SLOW), request_with(SLOW) + GOOD):
            with running.connect() as client:
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                for _ in range(sent.count(b"POST")):
                    assert answer_of(client)[0] == 200
                assert client.recv(1) == b""


@pytest.mark.slow
def test_a_thousand_idle_connections_cost_little_and_keep_nobody_waiting(
    folder: Path, tmp_path: Path, clients: ExitStack
) -> None:
    allow_files(1200)
    with serving(folder, tmp_path / "log") as running:
        for _ in range(50):
            assert running.ask(GOOD)[0] == 200
        files, before = open_files(running), resident_mib(running)
        for number in range(1000):
            client = connected(running, clients)
            if number % 2:
                client.sendall(GOOD)
                assert answer_of(client)[0] == 200
        assert eventually(lambda: open_files(running) > files + 990)
        per_connection = 1024 * (resident_mib(running) - before) / 1000
        assert per_connection < 30
        start = time.monotonic()
        for _ in range(20):
            assert running.ask(GOOD)[0] == 200
        # Twenty new connections; a thousand idle ones must not turn milliseconds into seconds.
        assert time.monotonic() - start < 5
        clients.close()
        assert eventually(lambda: open_files(running) <= files)


def test_idle_connections_make_room_and_busy_ones_do_not(folder: Path, tmp_path: Path, clients: ExitStack) -> None:
    with serving(folder, tmp_path / "log", program=MOODY, MAX_CONNECTIONS=4, BATCH_IMAGES=2) as running:
        idle = [connected(running, clients) for _ in range(4)]
        assert running.ask(GOOD)[0] == 200
        assert idle[0].recv(1) == b""
        busy = [connected(running, clients) for _ in range(4)]
        for each in busy:
            each.sendall(request_with(SLOW))
        time.sleep(0.1)
        for _ in range(3):
            status, answer = running.ask(GOOD)
            assert (status, "MAX_CONNECTIONS" in answer["error"]) == (503, True)
        for each in busy:
            assert answer_of(each)[0] == 200
        assert running.ask(GOOD)[0] == 200


@pytest.mark.slow
def test_greedy_clients_that_read_nothing_take_no_memory(folder: Path, tmp_path: Path, clients: ExitStack) -> None:
    """What they ask for in a packet would be megabytes of answers."""
    with serving(folder, tmp_path / "log", IDLE_SECONDS=2, REQUEST_SECONDS=2) as running:
        assert running.ask(GOOD)[0] == 200
        files, before = open_files(running), resident_mib(running)
        greedy = [connected(running, clients) for _ in range(20)]
        for each in greedy:
            each.setblocking(False)
            for _ in range(8):
                try:
                    each.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 2000)
                except BlockingIOError:
                    break
        for _ in range(20):
            assert running.ask(GOOD)[0] == 200
        assert resident_mib(running) < before + 24
        assert eventually(lambda: open_files(running) <= files)


@pytest.mark.slow
def test_bodies_of_refused_requests_do_not_pile_up(folder: Path, tmp_path: Path) -> None:
    """A packet of a few kilobytes becomes 32 MiB before it is refused."""
    bomb = http_request(gzip.compress(b" " * (33 << 20)), "Content-Encoding: gzip")
    with serving(folder, tmp_path / "log", MAX_BODY_MIB=32) as running:
        assert running.ask(bomb)[0] == 413
        before = resident_mib(running)
        for _ in range(10):
            assert running.ask(bomb)[0] == 413
        assert resident_mib(running) < before + 40


def test_requests_that_need_no_body_hold_none(folder: Path, tmp_path: Path, clients: ExitStack) -> None:
    """Only requests to infer are counted against MAX_WAITING, so only they may hold a body."""
    head = b"GET /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n"
    with serving(folder, tmp_path / "log") as running:
        before = resident_mib(running)
        for _ in range(8):
            client = connected(running, clients)
            client.sendall(head)
            assert answer_of(client)[0] == 413
        assert running.ask(GOOD)[0] == 200
        assert resident_mib(running) < before + 24
