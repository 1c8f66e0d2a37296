"""Clients that ask and do not read: what is kept for them is bounded, for each and for all."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from device_server import Running, http_request, images, json_request, serving
from faults import GOOD, allow_files, eventually, open_files, resident_mib
from grpc_device import INFER, channel, infer, refusal, request, speaking, typed_images
from raw_http2 import call, connected_without_room
from scraped_metrics import metrics
from tiny_package import write_tiny_package
from unread_clients import push

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ONE = typed_images(images(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("unread") / "artifact").folder


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def with_id(text: str) -> bytes:
    return http_request(json.dumps({**json_request(images(1)), "id": text}).encode())


def connected(running: Running, clients: ExitStack, count: int) -> list[socket.socket]:
    return [clients.enter_context(running.connect()) for _ in range(count)]


def test_an_id_has_at_most_a_kibibyte(folder: Path, tmp_path: Path) -> None:
    with speaking(folder, tmp_path / "log") as (running, address), channel(address) as opened:
        for text in ("x" * 1024, "ä" * 512):
            assert running.ask(with_id(text))[1]["id"] == text
            assert infer(opened, request(ONE, id=text)).id == text
        for text in ("x" * 1025, "ä" * 513, "x" * 2_000_000):
            message = "'id' is longer than 1024 bytes, the maximum"
            assert running.ask(with_id(text)) == (400, {"error": message})
            assert refusal(opened, request(ONE, id=text)) == (grpc.StatusCode.INVALID_ARGUMENT, message)


@pytest.mark.slow
def test_large_ids_of_clients_that_read_nothing_take_no_memory(
    folder: Path, tmp_path: Path, clients: ExitStack
) -> None:
    """Each of them would get megabytes back."""
    greedy = with_id("x" * 8_000_000)
    with serving(folder, tmp_path / "log") as running:
        for _ in range(3):
            assert running.ask(greedy)[0] == 400
        before = resident_mib(running)
        for each in connected(running, clients, 40):
            each.sendall(greedy)
        assert running.ask(GOOD)[0] == 200
        assert resident_mib(running) < before + 30


@pytest.mark.slow
def test_a_thousand_clients_that_pipeline_and_read_nothing_are_bounded_together(
    folder: Path, tmp_path: Path, clients: ExitStack
) -> None:
    """1,020 connections, each with as many requests as it can send, and answers of kilobytes."""
    allow_files(1300)
    with serving(folder, tmp_path / "log", MAX_HELD_MIB=4) as running:
        for _ in range(20):
            assert running.ask(GOOD)[0] == 200
        before = resident_mib(running)
        greedy = connected(running, clients, 1020)
        for _ in range(3):
            for each in greedy:
                push(each, GET * 3000)
            assert running.ask(GOOD)[0] == 200
        assert resident_mib(running) < before + 24


def test_one_that_reads_late_gets_all_its_answers(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path / "log") as running, running.connect() as client:
        client.sendall(GOOD * 20)
        time.sleep(1)
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 20:
            received += client.recv(65536)


def test_requests_behind_answers_that_are_not_taken_hold_no_place(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path / "log") as running, running.connect() as greedy:
        push(greedy, GET * 3000)
        for _ in range(20):
            push(greedy, (GET + GOOD) * 1000)
        for _ in range(50):
            assert running.ask(GOOD)[0] == 200


# gRPC


@pytest.mark.slow
@pytest.mark.parametrize("method", [INFER, INFER.replace("ModelInfer", "ServerMetadata")])
def test_calls_whose_answers_are_not_taken_hold_nobody_up(
    folder: Path, tmp_path: Path, clients: ExitStack, method: str
) -> None:
    """More of them than gRPC takes at a time, from clients that leave no room for any answer."""
    message = request(ONE).SerializeToString() if method == INFER else b""
    with speaking(folder, tmp_path / "log") as (running, address), channel(address) as opened:
        assert infer(opened, request(ONE)).model_name == "tiny"
        for _ in range(20):
            connection = clients.enter_context(connected_without_room(address))
            for stream in range(1, 21, 2):
                push(connection, call(method, message, stream))
            assert infer(opened, request(ONE)).model_name == "tiny"
        assert eventually(lambda: "edge_deploy_waiting_requests 0.0" in metrics(running))
        for _ in range(50):
            assert infer(opened, request(ONE)).model_name == "tiny"
        assert not [entry for entry in running.logged() if "traceback" in entry]


def test_a_call_whose_answer_is_not_taken_ends(folder: Path, tmp_path: Path) -> None:
    with speaking(folder, tmp_path / "log", IDLE_SECONDS=1) as (running, address):
        files = open_files(running)
        with connected_without_room(address) as connection:
            connection.sendall(call(INFER, request(ONE).SerializeToString(), 1))
            connection.settimeout(10)
            # What comes before its end are settings and the answer's head.
            while connection.recv(1000):
                continue
        assert eventually(lambda: open_files(running) <= files)
