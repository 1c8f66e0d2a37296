"""A small real server of the status page, which answers `/status.json` as a test wants it to."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from chromium import Page

from targets.device.server.status import page

HOST = "127.0.0.1"

STATUS: dict[str, Any] = {
    "server": "edge-deploy",
    "ready": True,
    "loading": False,
    "reason": "",
    "uptime_seconds": 273_905.4,
    "model": {
        "name": "resnet20",
        "version": "0.1.0",
        "target": "cpu",
        "precision": "int8",
        "weight_bits": 8,
        "model_sha256": "5f1c0b7d9a3e48626b1f7c2d8e904a55c3d2b1a0f9e8d7c6b5a4938271605f4e",
        "classes": 10,
        "input_shape": [3, 32, 32],
        "runs_on": "onnxruntime 1.32.0 on avx512_vnni",
    },
    "golden": {
        "images": 16,
        "agreement": 1.0,
        "max_difference": 0.0,
        "reason": "16 golden images match: 100.0% of the classes agree, logits differ by at most 0; "
        "on avx512_vnni, all classes must agree, and logits to 0.0213",
    },
    "proof": {
        "verdict": "pass",
        "place": "host",
        "images": 846,
        "float_top1": 0.9173,
        "artifact_top1": 0.9149,
        "drop_points": 0.236,
        "drop_interval_points": [-0.22, 0.86],
        "max_drop_points": 1.0,
        "flip_rate": 0.0142,
        "worst_class": "cat",
        "worst_class_drop_points": 2.353,
        "shard_sha256": "a" * 64,
        "artifact_sha256": "5f1c0b7d9a3e48626b1f7c2d8e904a55c3d2b1a0f9e8d7c6b5a4938271605f4e",
        "instruction_set": "avx512_vnni",
        "runtime": "onnxruntime 1.32.0",
    },
    "requests": {"answered": 1_204_518, "refused": 12, "waiting": 2, "connections": 3},
    "latency_ms": {"p50": 0.334, "p90": 0.412, "p99": 1.273, "count": 1000},
    "memory_mib": 61.4,
}


class StatusServer:
    """`says` may be changed at any time, as may `code`, `body` (sent in its place) and the `token` it wants."""

    def __init__(self) -> None:
        self.says: dict[str, Any] = json.loads(json.dumps(STATUS))
        self.code = 200
        self.body: bytes | None = None
        self.token: str | None = None
        self.asked: list[str] = []
        """Paths with the token that came along, in order."""
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}/"

    def start(self) -> None:
        """On the port of before, if there was one."""
        self._server = ThreadingHTTPServer((HOST, self._port), _handler_of(self))
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._server = None

    def answer(self, path: str, authorization: str | None) -> tuple[int, str, bytes, dict[str, str]]:
        self.asked.append(f"{path} {authorization}")
        if path == "/":
            content, policy = page()
            return 200, "text/html; charset=utf-8", content, {"Content-Security-Policy": policy}
        if path != "/status.json":
            return 404, "text/plain", b"", {}
        if self.token is not None and authorization != f"Bearer {self.token}":
            return 401, "application/json", b'{"error": "a token is needed"}', {"WWW-Authenticate": "Bearer"}
        body = json.dumps(self.says).encode() if self.body is None else self.body
        return self.code, "application/json", body, {}


@contextmanager
def status_server() -> Iterator[StatusServer]:
    server = StatusServer()
    try:
        yield server
    finally:
        server.stop()


def wait_for_word(page: Page, word: str) -> None:
    page.wait_for(f"document.getElementById('word').textContent === '{word}'")


def wait_for_text(page: Page, query: str, text: str) -> None:
    page.wait_for(f"document.querySelector('{query}').innerText.includes({text!r})")


def wait_for_polls(server: StatusServer, count: int) -> None:
    before = len(server.asked)
    while len(server.asked) < before + count:
        time.sleep(0.02)


def _handler_of(server: StatusServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, kind, body, headers = server.answer(self.path, self.headers.get("Authorization"))
            self.send_response(code)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Nothing: a test says itself what went wrong."""

    return Handler
