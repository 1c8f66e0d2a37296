"""A server of a TensorRT image, with a stand-in for the GPU, and what it tells."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_server import Running, images, json_request, serving, start
from tiny_tensorrt import Device, write_tiny_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "model")
    return tmp_path / "model"


def settings(device: Device, **changes: object) -> dict[str, Any]:
    """The environment of whatever runs on the device."""
    return {**device.environment, **changes}


@contextmanager
def ready(model: Path, device: Device, **changes: object) -> Iterator[Running]:
    with serving(model, model.parent / "log", **settings(device, **changes)) as running:
        yield running


@contextmanager
def refused(model: Path, device: Device, **changes: object) -> Iterator[Running]:
    """A server that has found out that it cannot serve."""
    running = start(model, model.parent / "log", **settings(device, **changes))
    try:
        running.wait_for("the model cannot be served")
        yield running
    finally:
        running.process.kill()
        running.process.wait(60)


def get(running: Running, path: str) -> tuple[int, dict[str, Any]]:
    return running.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def raw(running: Running, path: str) -> bytes:
    with running.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = stream.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        return body


def phases(running: Running) -> list[str]:
    return [entry["phase"] for entry in running.logged() if entry["message"] == "starting"]


def logits_of(running: Running, count: int = 11) -> Any:
    body = json.dumps(json_request(images(count, seed=4))).encode()
    head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    status, answer = running.ask(head.encode() + body)
    assert status == 200, answer
    return np.array(answer["outputs"][0]["data"], np.float32).reshape(count, -1)


def reason_of(running: Running) -> str:
    status, answer = get(running, "/v2/health/ready")
    assert (status, answer["ready"], answer["loading"]) == (503, False, False)
    assert get(running, "/v2/health/live") == (200, {"live": True})
    assert running.process.poll() is None
    return str(answer["error"])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
