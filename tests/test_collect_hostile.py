"""A device that is broken or hostile gets a message, in bounded time and memory."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipeline import collect as module
from pipeline.collect import Access, collect
from pipeline.errors import DeviceError, RecipeError

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def device(answer: Answer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *args: object) -> None:
            del args

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def sent(content: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def proof(report: object) -> bytes:
    return json.dumps({"schema": 1, "state": "proven", "report": report}).encode()


def dripping(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(1000):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        return


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "answers no JSON object"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "answers no JSON object"),
        (b"\xff\xfe", "answers no JSON object"),
        (proof(None), "has no proof to collect"),
        (b'{"schema": 1e400}', "has schema inf"),
    ],
)
def test_documents_that_are_none(content: bytes, message: str, tmp_path: Path) -> None:
    with device(sent(content)) as address, pytest.raises(DeviceError, match=message):
        collect(address, name="orin", workspace=tmp_path, access=Access())


def test_an_answer_that_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SECONDS", 0.3)
    started = time.monotonic()
    with device(dripping) as address, pytest.raises(DeviceError, match="does not end; nothing was kept"):
        collect(address, name="orin", workspace=tmp_path, access=Access())
    assert time.monotonic() - started < 20


def test_an_answer_without_bounds_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1 << 20)
    with device(sent(b" " * (3 << 20))) as address, pytest.raises(DeviceError, match="more than 1 MiB"):
        collect(address, name="orin", workspace=tmp_path, access=Access())


@pytest.mark.parametrize("name", ["../../x", "a/b", "", ".hidden", "a" * 200, "x\x1b[2K"])
def test_a_name_that_is_no_devices_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be a device's"):
        collect("http://127.0.0.1:1", name=name, workspace=tmp_path, access=Access())


@pytest.mark.parametrize("value", [10**400, -1, 101, float("nan"), "1", True, None])
def test_margins_that_are_none(value: object) -> None:
    with pytest.raises((ValueError, OverflowError)):
        module._points(value)
