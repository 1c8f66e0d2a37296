"""Clients whose bodies come slowly, or never: they hold no place, little memory, and nobody else up."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
from device_server import Running, answer_of, http_request, images, serving
from faults import GOOD, SECONDS, resident_mib
from grpc_device import INFER, channel, infer, request, speaking, status_of, typed_images
from tiny_package import write_tiny_package

from targets.device.server.connection import PACE_SECONDS

LIVE = INFER.replace("ModelInfer", "ServerLive")
ONE = typed_images(images(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("slow") / "artifact").folder


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@contextmanager
def in_background(step: Callable[[], None], pause: float) -> Iterator[None]:
    """`step` again and again, until this is left."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(pause):
            step()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(SECONDS)


def connected(running: Running, clients: ExitStack, count: int) -> list[socket.socket]:
    return [clients.enter_context(running.connect()) for _ in range(count)]


def send(client: socket.socket, data: bytes) -> None:
    try:
        client.sendall(data)
    except OSError:
        # Cut off by now, as is right.
        return


@pytest.mark.slow
def test_clients_of_one_byte_a_second_hold_no_place(folder: Path, tmp_path: Path, clients: ExitStack) -> None:
    """With the settings as they are by themselves."""
    with serving(folder, tmp_path / "log") as running:
        slow = connected(running, clients, 40)
        for each in slow:
            each.sendall(GOOD[:-100])

        def drip() -> None:
            for each in slow:
                send(each, b" ")

        with in_background(drip, 1.0):
            deadline = time.monotonic() + PACE_SECONDS + 2
            asked = 0
            while asked < 125 or time.monotonic() < deadline:
                assert running.ask(GOOD)[0] == 200
                asked += 1
                time.sleep(0.02)
        for each in slow:
            status, answer = answer_of(each)
            assert (status, "less than 1024 bytes per second (BODY_PACE)" in answer["error"]) == (408, True)


@pytest.mark.slow
def test_a_pace_that_is_low_enough_is_taken(folder: Path, tmp_path: Path, clients: ExitStack) -> None:
    """A slow link is no attack."""
    with serving(folder, tmp_path / "log", BODY_PACE=20) as running:
        (client,) = connected(running, clients, 1)
        step = len(GOOD) // 20
        for start in range(0, len(GOOD), step):
            client.sendall(GOOD[start : start + step])
            time.sleep((PACE_SECONDS + 2) / 20)
        assert answer_of(client)[0] == 200


def test_bodies_that_stall_take_no_more_memory_than_those_that_wait_may(
    folder: Path, tmp_path: Path, clients: ExitStack
) -> None:
    """The memory for bodies is full after four of them; whoever has stalled in it for longest goes."""
    body = b" " * 900_000
    head = http_request(b" " * (1 << 20))[: -(1 << 20)]
    with serving(folder, tmp_path / "log", MAX_BODY_MIB=1, MAX_WAITING=4) as running:
        assert running.ask(GOOD)[0] == 200
        before = resident_mib(running)
        stalled = connected(running, clients, 60)
        for number, each in enumerate(stalled):
            send(each, head + body)
            if number % 6 == 0:
                assert running.ask(GOOD)[0] == 200
                time.sleep(0.3)
        assert resident_mib(running) < before + 16
        status, answer = answer_of(stalled[0])
        assert (status, "MAX_WAITING times MAX_BODY_MIB" in answer["error"]) == (429, True)


@pytest.mark.slow
def test_a_new_connection_takes_the_place_of_a_slow_one(folder: Path, tmp_path: Path, clients: ExitStack) -> None:
    with serving(folder, tmp_path / "log", MAX_CONNECTIONS=8) as running:
        for begin in (GOOD[:-10], GOOD[:20]):
            slow = connected(running, clients, 8)
            for each in slow:
                each.sendall(begin)
            time.sleep(1.5)
            for _ in range(20):
                assert running.ask(GOOD)[0] == 200


# gRPC


def held(opened: Any, method: str, over: threading.Event) -> Any:
    """A call whose message does not come."""

    def message() -> Iterator[bytes]:
        over.wait(SECONDS)
        yield b""

    return opened.stream_unary(method).future(message(), timeout=SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param(INFER, id="infer"), pytest.param(LIVE, id="live")])
def test_calls_whose_message_does_not_come_hold_nobody_up(
    folder: Path, tmp_path: Path, clients: ExitStack, method: str
) -> None:
    """More of them than gRPC would take at a time."""
    over = threading.Event()
    clients.callback(over.set)
    with speaking(folder, tmp_path / "log") as (running, address):
        opened = [clients.enter_context(channel(address)) for _ in range(40)]
        calls = [held(each, method, over) for each in opened for _ in range(2)]
        time.sleep(1)
        good = clients.enter_context(channel(address))
        for _ in range(100):
            assert infer(good, request(ONE)).model_name == "tiny"
            assert running.ask(GOOD)[0] == 200
        with triton.InferenceServerClient(address) as client:
            assert client.is_model_ready("tiny")
        # Those that are left have room; the others have heard why.
        ended = [call for call in calls if call.done()]
        assert ended
        for call in ended:
            with pytest.raises(grpc.RpcError) as caught:
                call.result()
            code, words = status_of(caught.value)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "too many messages are being received (MAX_WAITING)" in words or "Concurrent RPC limit" in words
        over.set()
