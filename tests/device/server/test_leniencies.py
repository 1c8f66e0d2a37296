"""What another server on the way may read differently is refused, and so is what the process may not have."""

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from device_server import HOST, ROOT, Running, answer_of, environment, free_port, serving
from docker.errors import ContainerError
from faults import GOOD, MOODY, SLOW, request_with
from grpc_device import channel, refusal, request, speaking
from tiny_package import Packaged, write_tiny_package

from pipeline.containers.container import RIGHTS
from pipeline.containers.engine import Engine

SECONDS = 30.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("lenient") / "artifact").folder


@pytest.fixture(scope="module")
def running(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(folder, tmp_path_factory.mktemp("log") / "log") as started:
        yield started


@pytest.mark.parametrize(
    ("head", "status", "message"),
    [
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: a\r\n", 400, "several host headers"),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nhOST: b\r\n", 400, "several host headers"),
        (
            b"GET /v2 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n",
            400,
            "several auth",
        ),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Encoding: identity\r\n", 400, "several"),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n", 400, "several expect"),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n", 400, ""),
        (b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400, ""),
        (
            b"POST /v2 HTTP/1.1\r\nHost: a\r\n" + b"Inference-Header-Content-Length: 1\r\n" * 2,
            400,
            "several inference-header-content-length headers",
        ),
        (b"GET /v2 HTTP/2.0\r\nHost: a\r\n", 505, "HTTP/2.0 is not supported"),
        (b"GET /v2 HTTP/0.9\r\nHost: a\r\n", 505, "HTTP/0.9 is not supported"),
        (b"POST /v2 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", 400, "HTTP/1.0 has no transfer-encoding"),
    ],
)
def test_what_others_may_read_differently_is_refused(running: Running, head: bytes, status: int, message: str) -> None:
    with running.connect() as client:
        client.sendall(head + b"\r\n")
        found, answer = answer_of(client)
        assert (found, message in answer["error"]) == (status, True)
        # Nothing after it is read.
        assert client.recv(1) == b""


def test_a_call_with_two_tokens_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("0123456789abcdef\n")
    good = ("authorization", "Bearer 0123456789abcdef")
    with (
        speaking(folder, tmp_path / "log", TOKEN_FILE=tmp_path / "tokens") as (_, address),
        channel(address) as opened,
    ):
        words = "the request has several authorization headers; send one"
        assert refusal(opened, request(), metadata=[good, good]) == (grpc.StatusCode.INVALID_ARGUMENT, words)


@pytest.mark.parametrize(
    "asked", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", GOOD, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", b"rubbish\r\n\r\n"]
)
def test_every_answer_forbids_to_guess_its_type(running: Running, asked: bytes) -> None:
    with running.connect() as client:
        client.sendall(asked)
        assert b"\r\nX-Content-Type-Options: nosniff\r\n" in client.recv(4096)


def head_of(client: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(65536)
    return received.partition(b"\r\n\r\n")[0]


def test_clients_that_are_kept_alive_get_their_answer_after_sigterm(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path / "log", program=MOODY, BATCH_IMAGES=2) as running:
        clients = [running.connect() for _ in range(8)]
        silent = running.connect()
        try:
            for each in (*clients, silent):
                each.sendall(GOOD)
                assert b"Connection: close" not in head_of(each)
            clients[0].sendall(request_with(SLOW))
            running.process.terminate()
            running.wait_for("stopping")
            assert b"200 OK" in head_of(clients[0])
            for each in clients[1:]:
                each.sendall(GOOD)
                head = head_of(each)
                assert head.startswith(b"HTTP/1.1 200 OK")
                assert b"\r\nConnection: close" in head
            # Its end, and no reset, even if it sends something now.
            assert silent.recv(1) == b""
            silent.sendall(GOOD)
            assert running.process.wait(SECONDS) == 0
        finally:
            for each in (*clients, silent):
                each.close()


def test_too_few_files_are_told_with_what_to_do(folder: Path) -> None:
    """As `docker run --ulimit nofile=64`."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    given = environment({"MODEL_FOLDER": folder, "HOST": HOST, "PORT": free_port()})
    command = [sys.executable, "-m", "targets.device", "serve"]
    found = subprocess.run(
        command, cwd=ROOT, env=given, preexec_fn=limit, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert found.returncode == 2
    assert found.stderr == (
        "error: MAX_CONNECTIONS is 1024, but this process may open only 64 files; the server itself needs 64 of them: "
        "raise the limit (docker run --ulimit nofile=1088)\n"
    )


@pytest.mark.docker
def test_too_few_processes_are_told_with_what_to_do(engine: Engine, packaged: Packaged) -> None:
    with pytest.raises(ContainerError) as caught:
        engine.client.containers.run(packaged.image.tag, remove=True, **{**RIGHTS, "pids_limit": 1})
    assert caught.value.exit_status == 2
    told = bytes(caught.value.stderr).decode()  # type: ignore[arg-type]
    assert told.splitlines()[-1] == (
        "error: can't start new thread: the process limit of this container or user is too low. Allow at least 64 "
        "(docker run --pids-limit 64)"
    )
    assert "Traceback" not in told
