"""What happens to the process itself: hanging, late, stopped, frozen, without room, with a clock that jumps."""

import os
import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from device_server import HOST, Running, answer_of, answering, serving
from faults import GOOD, HANG, MOODY, SECONDS, SLOW, eventually, request_with
from tiny_package import write_tiny_package

from targets.device.server.watchdog import STUCK_STATUS

LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
)
WORKER = {"BATCH_IMAGES": 2, "INSTANCES": 1}
"""Sends every request to the model's only thread."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("process") / "artifact").folder


@pytest.mark.parametrize("settings", [pytest.param(WORKER, id="thread"), pytest.param({}, id="loop")])
def test_a_model_that_hangs_ends_the_process(folder: Path, tmp_path: Path, settings: dict[str, int]) -> None:
    with serving(folder, tmp_path / "log", program=MOODY, REQUEST_SECONDS=1, **settings) as running:
        for _ in range(5):
            assert running.ask(GOOD)[0] == 200
        with running.connect() as hanging:
            hanging.sendall(request_with(HANG))
            if settings:
                assert answer_of(hanging)[0] == 503
                status, answer = running.ask(GOOD)
                assert (status, "REQUEST_SECONDS" in answer["error"]) == (503, True)
            assert running.process.wait(SECONDS) == STUCK_STATUS
        assert running.logged()[-1]["level"] == "critical"


def test_of_several_instances_one_that_hangs_ends_the_process_and_the_other_answers_until_then(
    folder: Path, tmp_path: Path
) -> None:
    settings = {**WORKER, "INSTANCES": 2}
    with serving(folder, tmp_path / "log", program=MOODY, REQUEST_SECONDS=1, **settings) as running:
        with running.connect() as hanging:
            hanging.sendall(request_with(HANG))
            assert answer_of(hanging)[0] == 503
            assert running.ask(GOOD)[0] == 200
            assert running.process.wait(SECONDS) == STUCK_STATUS
        assert running.logged()[-1]["level"] == "critical"


def test_an_answer_that_comes_too_late_is_refused_and_the_next_one_given(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path / "log", program=MOODY, REQUEST_SECONDS=1, MAX_WAITING=64, **WORKER) as running:
        clients = [running.connect() for _ in range(24)]
        try:
            for each in clients:
                each.sendall(request_with(SLOW))
            statuses = [answer_of(each)[0] for each in clients]
        finally:
            for each in clients:
                each.close()
        assert set(statuses) == {200, 503}
        assert eventually(lambda: running.ask(GOOD)[0] == 200)


def test_a_process_that_was_frozen_goes_on_and_blames_nobody(folder: Path, tmp_path: Path) -> None:
    limits = {"HEAD_SECONDS": 1, "BODY_SECONDS": 1, "REQUEST_SECONDS": 1, "IDLE_SECONDS": 2}
    with serving(folder, tmp_path / "log", program=MOODY, **limits, **WORKER) as running:
        idle, half, asked, new = [running.connect() for _ in range(4)]
        try:
            half.sendall(GOOD[:200])
            asked.sendall(request_with(SLOW))
            time.sleep(0.1)
            running.process.send_signal(signal.SIGSTOP)
            time.sleep(5)
            half.sendall(GOOD[200:-10])
            new.sendall(GOOD)
            running.process.send_signal(signal.SIGCONT)
            half.sendall(GOOD[-10:])
            idle.sendall(GOOD)
            assert [answer_of(each)[0] for each in (half, asked, new, idle)] == [200] * 4
        finally:
            for each in (idle, half, asked, new):
                each.close()
        assert running.stop() == 0


def test_sigterm_under_load_loses_no_request(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path / "log", program=MOODY, MAX_WAITING=64, **WORKER) as running:
        signalled = threading.Event()

        def ask(number: int) -> list[tuple[float, int]]:
            """When each request was sent, and its status; 0: the connection was closed or refused."""
            found: list[tuple[float, int]] = []
            while not found or found[-1][1]:
                sent = time.monotonic()
                try:
                    with running.connect() as client:
                        client.sendall(request_with(SLOW if number % 4 == 0 else 0.5))
                        sent = time.monotonic()
                        found.append((sent, answer_of(client)[0]))
                except (OSError, IndexError):
                    found.append((sent, 0))
            return found

        with ThreadPoolExecutor(16) as threads:
            asking = [threads.submit(ask, number) for number in range(16)]
            time.sleep(1)
            at = time.monotonic()
            signalled.set()
            status = running.stop()
            took = time.monotonic() - at
            found = [each for future in asking for each in future.result()]
        assert status == 0
        assert took < 8
        before = [status for sent, status in found if sent < at]
        assert len(before) > 20
        assert set(before) == {200}
        # Later ones are refused with a reason, or find nobody.
        assert {status for sent, status in found if sent >= at} <= {0, 200, 503}


def test_sigterm_does_not_wait_for_a_model_that_hangs(folder: Path, tmp_path: Path) -> None:
    with (
        serving(folder, tmp_path / "log", program=MOODY, GRACE_SECONDS=1, **WORKER) as running,
        running.connect() as client,
    ):
        client.sendall(request_with(HANG))
        time.sleep(0.2)
        start = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - start < 8


def test_a_log_that_cannot_be_written_stops_nothing(folder: Path) -> None:
    """The disk is full where the lines go."""
    with serving(folder, Path("/dev/full")) as running:
        for _ in range(3):
            assert running.ask(b"nonsense\r\n\r\n")[0] == 400
            assert running.ask(GOOD)[0] == 200
        assert running.stop() == 0


@pytest.mark.slow
def test_a_log_that_nobody_reads_ends_the_process_before_long(folder: Path, tmp_path: Path) -> None:
    """A pipe that is full would hold it for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with serving(folder, pipe, REQUEST_SECONDS=1, LOG_LEVEL="debug") as running:

            def fill() -> None:
                try:
                    while True:
                        running.ask(GOOD)
                except (OSError, IndexError):
                    return

            filling = threading.Thread(target=fill)
            filling.start()
            assert running.process.wait(SECONDS) == STUCK_STATUS
            filling.join(SECONDS)
    finally:
        os.close(reader)


@pytest.mark.slow
def test_damage_anywhere_in_the_artifact_is_found_and_named(folder: Path, tmp_path: Path) -> None:
    pick = random.Random(7)
    refused = 0
    for number in range(45):
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        file = copy / ("model.onnx", "manifest.json", "golden.npz")[number % 3]
        data = bytearray(file.read_bytes())
        if number % 2:
            data = data[: pick.randrange(len(data))]
        else:
            data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
        file.write_bytes(data)
        with answering(copy) as client:
            told = client.get("/v2/health/ready").json()
            assert client.get("/v2/health/live").status_code == 200
        refused += not told["ready"]
        assert told["ready"] or (told["error"] and not told["loading"])
        assert told["ready"] is False or file.name != "model.onnx"
    assert refused > 35


@contextmanager
def fake_clock(folder: Path, tmp_path: Path) -> Iterator[tuple[Running, Path]]:
    """A server whose wall clock is moved by writing into a file; what counts seconds is left alone."""
    library = next((each for each in LIBRARIES if Path(each).exists()), None)
    if library is None:
        pytest.skip("no libfaketime (Debian: apt-get install libfaketime)")
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    settings = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": clock,
        "FAKETIME_NO_CACHE": 1,
        "DONT_FAKE_MONOTONIC": 1,
    }
    limits = {"HEAD_SECONDS": 30, "IDLE_SECONDS": 30, "REQUEST_SECONDS": 5}
    with serving(folder, tmp_path / "log", program=MOODY, **settings, **limits, **WORKER) as running:
        yield running, clock


def date_of(running: Running) -> str:
    with running.connect() as client:
        client.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
        head = client.makefile("rb").read()
    return next(line for line in head.decode().split("\r\n") if line.startswith("Date: "))


def test_a_clock_that_jumps_by_days_while_requests_run_changes_the_date_alone(folder: Path, tmp_path: Path) -> None:
    with fake_clock(folder, tmp_path) as (running, clock):
        dates = {date_of(running)[:22]}
        with socket.create_connection((HOST, running.port), SECONDS) as idle, running.connect() as half:
            half.sendall(GOOD[:50])
            for offset in ("+40d", "-40d", "+9000d", "+0"):
                with running.connect() as asked:
                    asked.sendall(request_with(SLOW))
                    time.sleep(0.1)
                    clock.write_text(f"{offset}\n")
                    assert answer_of(asked)[0] == 200
                time.sleep(0.6)
                dates.add(date_of(running)[:22])
                assert running.ask(GOOD)[0] == 200
            half.sendall(GOOD[50:])
            assert answer_of(half)[0] == 200
            idle.sendall(GOOD)
            assert answer_of(idle)[0] == 200
        assert len(dates) == 4
        status = running.ask(b"GET /status.json HTTP/1.1\r\nHost: a\r\n\r\n")[1]
        assert 0 <= status["uptime_seconds"] < 600
        assert 0 <= status["latency_ms"]["p99"] < 60_000
        assert running.stop() == 0
