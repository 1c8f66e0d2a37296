"""`python -m targets.device` as a container runs it: statuses, messages, signals, and its log."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from device_server import HOST, Running, answer_of, device, free_port, http_request, python, serving, start
from malformed_requests import GOOD
from tiny_package import TinyPackage, write_tiny_package

from targets.device.model.golden import read_golden, write_golden


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyPackage:
    return write_tiny_package(tmp_path_factory.mktemp("served") / "artifact")


@pytest.fixture
def running(tiny: TinyPackage, tmp_path: Path) -> Iterator[Running]:
    with serving(tiny.folder, tmp_path / "log") as started:
        yield started


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["help"],
        ["serve", "now"],
        ["healthcheck", "x"],
        ["selftest", "a", "1", "b"],
        ["bench", "1", "2"],
        ["--help"],
    ],
)
def test_wrong_use_shows_how_to_use_it(arguments: list[str]) -> None:
    done = device(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: python -m targets.device COMMAND")


@pytest.mark.parametrize("command", ["serve", "selftest"])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "http", "PORT is 'http'; use a whole number from 1 to 65535"),
        ("MAX_BATCH", "0", "MAX_BATCH is '0'; use a whole number from 1 to 4096"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL is 'loud'; use debug, info, warning or error"),
    ],
)
def test_a_bad_setting_is_named_with_what_is_allowed(command: str, name: str, value: str, message: str) -> None:
    done = device(command, **{name: value})
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


def test_a_second_server_on_the_port_is_told_so(running: Running, tiny: TinyPackage) -> None:
    done = device("serve", MODEL_FOLDER=tiny.folder, HOST=HOST, PORT=running.port)
    assert done.returncode == 2
    assert f"error: cannot listen on HOST '{HOST}', PORT {running.port}: " in done.stderr
    assert "in use" in done.stderr
    assert "Use another port, or stop the program that uses it" in done.stderr
    assert "Traceback" not in done.stderr
    assert "listening" not in done.stderr
    assert running.ask(http_request(GOOD))[0] == 200


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", pytest.param("ä" * 80, id="no name")])
def test_an_address_of_another_machine_is_refused(tiny: TinyPackage, host: str) -> None:
    done = device("serve", MODEL_FOLDER=tiny.folder, HOST=host, PORT=free_port())
    assert done.returncode == 2
    assert f"error: cannot listen on HOST '{host}'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_health_check_asks_the_server_of_its_settings(running: Running, tmp_path: Path) -> None:
    assert device("healthcheck", PORT=running.port).returncode == 0
    assert device("healthcheck", PORT=running.port, HOST="0.0.0.0").returncode == 0
    for port in (free_port(), "", "http", 70_000, "²"):
        done = device("healthcheck", PORT=port)
        assert (done.returncode, done.stderr) == (1, "")


def test_selftest_prints_one_document(tiny: TinyPackage, tmp_path: Path) -> None:
    done = device("selftest", MODEL_FOLDER=tiny.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["passed"] is True
    done = device("selftest", str(tiny.proof.shard), "50", MODEL_FOLDER=tiny.folder)
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)["gate"]
    assert (found["lost"], found["won"], found["images"]) == (tiny.report.lost, tiny.report.won, 120)


def test_the_margin_of_the_selftest_can_be_given(tiny: TinyPackage) -> None:
    shard = str(tiny.proof.shard)
    strict = device("selftest", shard, "0", MODEL_FOLDER=tiny.folder)
    assert (strict.returncode, json.loads(strict.stdout)["gate"]["max_drop_points"]) == (1, 0.0)
    wrong = device("selftest", shard, "many", MODEL_FOLDER=tiny.folder)
    assert (wrong.returncode, wrong.stderr) == (2, "error: POINTS is 'many'; it must be a number from 0 to 100\n")


def test_selftest_fails_where_the_model_is_not_proven(tmp_path: Path) -> None:
    folder = write_tiny_package(tmp_path / "artifact").folder
    pixels, logits = read_golden(folder)
    write_golden(folder, pixels, logits + np.float32(1))
    done = device("selftest", MODEL_FOLDER=folder)
    assert done.returncode == 1
    assert json.loads(done.stdout)["passed"] is False


def test_selftest_says_what_it_cannot_read(tiny: TinyPackage, tmp_path: Path) -> None:
    done = device("selftest", MODEL_FOLDER=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {tmp_path} is not an artifact: it has no manifest.json.\n"
    done = device("selftest", str(tmp_path / "none.zip"), MODEL_FOLDER=tiny.folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no shard" in done.stderr


def test_a_server_without_a_model_lives_and_says_why_it_is_not_ready(tmp_path: Path) -> None:
    running = start(tmp_path / "nothing", tmp_path / "log")
    try:
        running.wait_for("the model cannot be served")
        status, answer = running.ask(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, answer["loading"]) == (503, False)
        assert "it has no manifest.json" in answer["error"]
        assert device("healthcheck", PORT=running.port).returncode == 1
        assert running.stop() == 0
        assert [entry for entry in running.logged() if entry["level"] == "error"]
    finally:
        running.process.kill()


def begin(running: Running) -> socket.socket:
    """A connection whose request is at hand: the server has asked for its body."""
    head, _, _ = http_request(GOOD, "Expect: 100-continue").partition(b"\r\n\r\n")
    connection = running.connect()
    connection.sendall(head + b"\r\n\r\n")
    assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
    return connection


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_finish_what_is_at_hand(running: Running, number: signal.Signals) -> None:
    idle = running.connect()
    with begin(running) as connection, idle:
        running.process.send_signal(number)
        running.wait_for("stopping")
        with pytest.raises(ConnectionRefusedError):
            running.connect()
        connection.sendall(GOOD)
        status, answer = answer_of(connection)
        assert status == 200
        assert answer["outputs"][0]["shape"] == [1, 4]
        assert running.process.wait(60) == 0
    assert not [entry for entry in running.logged() if entry["level"] in ("warning", "error")]


@pytest.mark.long
def test_a_request_that_does_not_end_does_not_keep_it(tiny: TinyPackage, tmp_path: Path) -> None:
    """Where any pace is allowed, or it would be refused for that first."""
    with serving(tiny.folder, tmp_path / "log", BODY_PACE=0) as running:
        with begin(running):
            assert running.stop() == 0
        assert any("GRACE_SECONDS" in entry["message"] for entry in running.logged())


def test_a_signal_while_it_starts_ends_it_too(tiny: TinyPackage, tmp_path: Path) -> None:
    running = start(tiny.folder, tmp_path / "log")
    try:
        running.wait_for("listening")
        assert running.stop() == 0
        running.logged()
    finally:
        running.process.kill()


def test_a_signal_just_before_the_server_runs_ends_it_in_order(tiny: TinyPackage) -> None:
    early = (
        "import asyncio, signal, sys\n"
        "run = asyncio.run\n"
        "asyncio.run = lambda *a, **k: (signal.raise_signal(signal.SIGTERM), run(*a, **k))\n"
        "from targets.device.__main__ import main\n"
        "sys.exit(main(['serve']))"
    )
    done = python("-c", early, MODEL_FOLDER=tiny.folder, HOST=HOST, PORT=free_port())
    assert (done.returncode, done.stderr) == (0, "")


def test_its_log_is_one_json_object_per_line(running: Running) -> None:
    assert running.ask(http_request(b"{", path="/v2/models/tiny/infer"))[0] == 400
    assert running.ask(b"no HTTP\r\n\r\n")[0] == 400
    assert running.stop() == 0
    entries = running.logged()
    assert all({"time", "level", "message"} <= set(entry) for entry in entries)
    (listening,) = [entry for entry in entries if entry["message"] == "listening"]
    assert (listening["host"], listening["port"]) == (HOST, running.port)
    refused, unread = (entry for entry in entries if entry["message"] == "request refused")
    assert (unread["status"], unread["path"]) == (400, None)
    assert "not valid HTTP" in unread["error"]
    assert (refused["level"], refused["status"], refused["path"]) == ("warning", 400, "/v2/models/tiny/infer")
    assert "not valid JSON" in refused["error"]
    assert [entry["reason"] for entry in entries if entry["message"] == "golden images match"]


def test_the_log_level_silences_the_rest(tiny: TinyPackage, tmp_path: Path) -> None:
    with serving(tiny.folder, tmp_path / "log", LOG_LEVEL="error") as running:
        assert running.ask(http_request(b"{"))[0] == 400
        assert running.stop() == 0
        assert running.logged() == []
