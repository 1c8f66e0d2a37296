"""A real server of an artifact, in this process or in one of its own on a free port of the loopback; bare requests."""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray
from tiny_onnx import SIDE

from targets.device.healthcheck import is_ready
from targets.device.serve import Server
from targets.device.server.access import Access
from targets.device.server.service import Service
from targets.device.settings import Settings

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
SECONDS = 60.0
INFER = "/v2/models/tiny/infer"


@dataclass(frozen=True, kw_only=True)
class Running:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"{HOST}:{self.port}"

    def logged(self) -> list[dict[str, Any]]:
        """What it has written; raises ValueError where a line is no JSON."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").split("\n") if line]

    def wait_for(self, message: str) -> None:
        """Until `message` is in its log."""
        until(lambda: any(entry["message"] == message for entry in self.logged()), self)

    def ask(self, request: bytes) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer to what goes over the wire as it is."""
        with self.connect() as connection:
            connection.sendall(request)
            return answer_of(connection)

    def connect(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), SECONDS)

    def stop(self) -> int:
        """The exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


@contextmanager
def answering(folder: Path, **settings: Any) -> Iterator[httpx2.Client]:
    """A server in a thread of this process, its model loaded or refused; exceptions it does not expect are raised."""
    given = Settings(model_folder=folder, host=HOST, **settings)
    service = Service(folder, given)
    with asking(service, given) as client:
        loaded(service)
        yield client


@contextmanager
def asking(service: Service, settings: Settings) -> Iterator[httpx2.Client]:
    """A server of `service` in a thread of this process; it and the service have ended when this is left."""
    bugs = _Bugs()
    logging.getLogger("targets.device.server.application").addHandler(bugs)
    listener = socket.create_server((HOST, 0))
    started: list[tuple[asyncio.AbstractEventLoop, Server]] = []
    is_started = threading.Event()

    async def run() -> None:
        server = Server(service, settings, Access(settings))
        started.append((asyncio.get_running_loop(), server))
        is_started.set()
        await server.run(listener)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert is_started.wait(SECONDS)
    (loop, server) = started[0]
    try:
        with httpx2.Client(base_url=f"http://{HOST}:{listener.getsockname()[1]}", timeout=SECONDS) as client:
            yield client
    finally:
        loop.call_soon_threadsafe(server.stop)
        thread.join(SECONDS)
        service.close()
        logging.getLogger("targets.device.server.application").removeHandler(bugs)
    for error in bugs.found:
        raise error


class _Bugs(logging.Handler):
    """Exceptions that the application has logged."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(record.exc_info[1])


def loaded(service: Service) -> None:
    """Wait until the service knows whether it will answer."""
    service.loaded(SECONDS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def device(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """`python -m targets.device` with these settings as its environment, to its end."""
    return python("-m", "targets.device", *arguments, **settings)


def python(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in settings.items()}}


@contextmanager
def serving(folder: Path, log: Path, *, program: str | None = None, **settings: object) -> Iterator[Running]:
    """A server of `folder` that is ready; whatever is left of it at the end is killed."""
    running = start(folder, log, program=program, **settings)
    try:
        until(lambda: is_ready(running.port, HOST), running)
        yield running
    finally:
        running.process.kill()
        running.process.wait(SECONDS)


def start(folder: Path, log: Path, *, program: str | None = None, **settings: object) -> Running:
    """`program` takes the place of the module's own start."""
    command = ["-m", "targets.device", "serve"] if program is None else ["-c", program]
    port = free_port()
    given = environment({"MODEL_FOLDER": folder, "HOST": HOST, "PORT": port, **settings})
    with log.open("wb") as written:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=given, stdout=written, stderr=written)
    return Running(process=process, port=port, log=log)


def until(condition: Any, running: Running) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert running.process.poll() is None, running.log.read_text()
        assert time.monotonic() < deadline, running.log.read_text()
        time.sleep(0.02)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def images(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


def json_request(values: NDArray[np.float32], **changes: object) -> dict[str, Any]:
    """The request for these images as JSON; `changes` go to its only input."""
    entry = {"name": "images", "shape": list(values.shape), "datatype": "FP32", "data": values.ravel().tolist()}
    return {"inputs": [{**entry, **changes}]}


def binary_request(values: NDArray[np.float32], **changes: object) -> tuple[bytes, bytes]:
    """JSON and raw bytes of the request for these images; `changes` go to its only input."""
    tensor = values.astype("<f4").tobytes()
    parameters = {"binary_data_size": len(tensor)}
    entry = {"name": "images", "shape": list(values.shape), "datatype": "FP32", "parameters": parameters}
    return json.dumps({"inputs": [{**entry, **changes}]}).encode(), tensor


def http_request(body: bytes, *headers: str, path: str = INFER) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def answer_of(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the next answer."""
    # Unbuffered: what comes behind this answer is the next one's.
    with connection.makefile("rb", buffering=0) as stream:
        status = int(stream.readline().split(b" ")[1])
        length = 0
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        body = b""
        while len(body) < length and (part := stream.read(length - len(body))):
            body += part
        return status, json.loads(body) if length else {}
