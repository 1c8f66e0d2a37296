"""Thousands of broken requests over real sockets: each is answered or cut off, and the server stays as it was."""

import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httptools
import pytest
from broken_requests import BODIES, BOMBS, GOOD, GOODS, INFLATING, bomb, conversations, encoded
from device_server import HOST, Running, http_request, serving
from hypothesis import HealthCheck, given, settings
from tiny_package import write_tiny_package

SECONDS = 15.0
PER_EXAMPLE = 20
# malloc() may keep what the largest image needed that any of them turned out to be; from then on nothing grows.
FIRST_GROWTH_MIB, GROWTH_MIB = 24.0, 4.0
LIMITS: dict[str, Any] = {
    "MAX_BODY_MIB": 1,
    "MAX_BATCH": 4,
    "MAX_IMAGE_MIPIXELS": 1,
    "HEAD_SECONDS": 2,
    "BODY_SECONDS": 2,
    "MAX_WAITING": 200,
}


@dataclass
class Told:
    """What the fuzz test has seen of a server."""

    running: Running
    logits: list[float]
    statuses: Counter[int] = field(default_factory=Counter)
    cut_off: int = 0
    slowest: float = 0.0


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = write_tiny_package(tmp_path_factory.mktemp("fuzz") / "artifact").folder
    with serving(folder, tmp_path_factory.mktemp("log") / "log", **LIMITS) as running:
        yield Told(running, logits_of(running))


def logits_of(running: Running) -> list[float]:
    status, answer = running.ask(http_request(GOOD))
    assert status == 200
    values: list[float] = answer["outputs"][0]["data"]
    return values


@dataclass
class Answers:
    """What comes back on one connection, read by a parser that is not ours."""

    statuses: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    body: bytes = b""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        if status != 100:
            self.statuses.append(status)
            self.bodies.append(self.body)
        self.body = b""

    def __post_init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)


def converse(running: Running, sent: bytes) -> Answers:
    """Send it, close our half, and read until the server closes; raises TimeoutError where it does not."""
    answers = Answers()
    with socket.create_connection((HOST, running.port), SECONDS) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(1 << 16):
                answers.parser.feed_data(data)
        except (ConnectionError, BrokenPipeError):
            # Cut off, which is the server's right.
            pass
    return answers


def check(told: Told, sent: bytes) -> None:
    start = time.monotonic()
    answers = converse(told.running, sent)
    told.slowest = max(told.slowest, time.monotonic() - start)
    told.statuses.update(answers.statuses)
    told.cut_off += not answers.statuses
    for status, body in zip(answers.statuses, answers.bodies, strict=True):
        assert status != 500, (sent[:2000], body)
        if status != 200:
            error = json.loads(body)["error"]
            assert isinstance(error, str)
            assert error


def resident_mib(running: Running) -> float:
    fields = Path(f"/proc/{running.process.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)


def open_files(running: Running) -> int:
    return len(list(Path(f"/proc/{running.process.pid}/fd").iterdir()))


def settled(running: Running, files: int) -> int:
    """Files that are open once those who were cut off are forgotten."""
    deadline = time.monotonic() + SECONDS
    while (found := open_files(running)) > files and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def usual_mib(told: Told) -> float:
    """Memory after what every server does sooner or later: each kind of request, and the largest body and image.

    The least of several looks: what malloc() keeps for the next request goes up and down by some MiB.
    """
    large = http_request(b'{"id": "' + b"x" * 900_000 + b'", ' + GOOD[1:])
    largest = [large, http_request(INFLATING, "Content-Encoding: gzip"), http_request(encoded(*BOMBS))]
    largest += [http_request(encoded(bomb(1024, 1024))), http_request(encoded(bomb(16, 65_536)))]
    looks = []
    for _ in range(15):
        for sent in (*GOODS, *largest, *BODIES):
            check(told, sent)
        looks.append(resident_mib(told.running))
    return min(looks[5:])


def fuzz(told: Told, examples: int) -> None:
    running = told.running
    memory, files = usual_mib(told), open_files(running)
    told.statuses.clear()
    told.cut_off = 0

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(conversations)
    def example(sent: list[bytes]) -> None:
        for each in sent:
            check(told, each)
        assert running.process.poll() is None
        assert logits_of(running) == told.logits

    example()
    statuses, left, after = dict(sorted(told.statuses.items())), settled(running, files), usual_mib(told)
    # The same again: what is lost for good is lost a second time.
    example()
    again = usual_mib(told)
    # Shown by `pytest -s`.
    sys.stdout.write(
        f"2 x {examples * PER_EXAMPLE} requests: {statuses}, {told.cut_off} cut off; "
        f"slowest {told.slowest:.2f} s; "
        f"memory {memory:.1f} -> {after:.1f} -> {again:.1f} MiB; files {files} -> {left}\n"
    )
    assert left <= files
    assert after < memory + FIRST_GROWTH_MIB
    assert again < after + GROWTH_MIB
    # Neither is all of it refused, nor little.
    assert statuses[200] > examples
    assert statuses[400] > examples
    assert not [entry for entry in running.logged() if "traceback" in entry or entry["level"] == "error"]


@pytest.mark.slow
def test_a_thousand_broken_requests_leave_the_server_as_it_was(told: Told) -> None:
    fuzz(told, 25)


@pytest.mark.long
def test_20_000_broken_requests_leave_the_server_as_it_was(told: Told) -> None:
    fuzz(told, 500)


def test_clients_that_never_end_what_they_began_are_cut_off(told: Told) -> None:
    """The half is not closed here: it is the server's limits that end it, all at a time."""
    files = open_files(told.running)
    parts = [each[: len(each) * share // 8] for each in GOODS for share in range(1, 8)]
    clients = [socket.create_connection((HOST, told.running.port), SECONDS) for _ in parts]
    try:
        for client, part in zip(clients, parts, strict=True):
            client.sendall(part)
        for client, part in zip(clients, parts, strict=True):
            answers = Answers()
            while data := client.recv(1 << 16):
                answers.parser.feed_data(data)
            assert answers.statuses == [408], part
            assert "did not arrive within 2 s" in json.loads(answers.bodies[0])["error"]
    finally:
        for client in clients:
            client.close()
    assert settled(told.running, files) <= files
    assert logits_of(told.running) == told.logits


def test_it_ends_in_order_after_all_that(told: Told) -> None:
    assert told.running.stop() == 0
