"""The protocol's paths, statuses and headers over HTTP."""

import gzip
import json
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from device_server import INFER, answering, images, json_request
from malformed_requests import GOOD
from tiny_package import write_tiny_package

from targets.device.server.application import SHOWN_LETTERS

MODEL = "/v2/models/tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("application") / "artifact").folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx2.Client]:
    with answering(folder, max_batch=64) as made:
        yield made


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2", 200),
        ("HEAD", "/v2", 200),
        ("GET", "/v2?a=b", 200),
        ("GET", "/v2/health/live", 200),
        ("GET", MODEL, 200),
        ("GET", f"{MODEL}/ready", 200),
        ("GET", f"{MODEL}/versions/0.1.0", 200),
        ("GET", f"{MODEL}/versions/0.1.0/ready", 200),
        ("GET", "/v2/models/t%69ny", 200),
        ("GET", f"{MODEL}/versions/2", 404),
        ("GET", f"{MODEL}/versions", 404),
        ("GET", f"{MODEL}/versions/0.1.0/more", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/", 404),
        ("GET", "/v2/models/%ff", 404),
        ("GET", "/v2/models/tiny%2Finfer", 404),
        ("GET", "/v3", 404),
        ("POST", "/v2", 405),
        ("DELETE", MODEL, 405),
        ("GET", INFER, 405),
        ("HEAD", INFER, 405),
        ("OPTIONS", INFER, 405),
        ("PUT", "/metrics", 405),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", f"{MODEL}/versions/2/infer", 404),
    ],
)
def test_what_is_where(client: httpx2.Client, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    if method == "HEAD":
        assert answer.content == b""
    elif status != 200:
        assert list(answer.json()) == ["error"]
    if status == 405:
        assert answer.headers["allow"] == ("POST" if path == INFER else "GET, HEAD")


def test_a_version_may_be_named(client: httpx2.Client) -> None:
    assert client.post(f"{MODEL}/versions/0.1.0/infer", content=GOOD).json()["model_version"] == "0.1.0"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_bodies_may_come_and_go_compressed(client: httpx2.Client, coding: str) -> None:
    body = json.dumps(json_request(images(64))).encode()
    sent = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    plain = client.post(INFER, content=body, headers={"Accept-Encoding": "identity"})
    packed = client.post(INFER, content=sent, headers={"Content-Encoding": coding, "Accept-Encoding": coding})
    assert packed.headers["content-encoding"] == coding
    assert packed.headers["vary"] == "Accept-Encoding"
    assert "content-encoding" not in plain.headers
    assert packed.json() == plain.json()
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"])


def test_short_answers_are_not_compressed(client: httpx2.Client) -> None:
    assert "content-encoding" not in client.post(INFER, content=GOOD, headers={"Accept-Encoding": "gzip"}).headers


def test_an_unknown_coding_is_refused(client: httpx2.Client) -> None:
    answer = client.post(INFER, content=GOOD, headers={"Content-Encoding": "br"})
    assert answer.status_code == 415
    assert list(answer.json()) == ["error"]


def test_refusals_that_will_pass_say_when_to_come_again(folder: Path, tmp_path: Path) -> None:
    with answering(tmp_path) as client:
        answer = client.post(INFER, content=GOOD)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_the_status_is_that_of_now(client: httpx2.Client) -> None:
    before = client.get("/status.json").json()["requests"]["answered"]
    client.post(INFER, content=GOOD)
    answer = client.get("/status.json")
    told = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert (told["ready"], told["requests"]["answered"]) == (True, before + 1)
    assert told["requests"]["waiting"] == 0


def test_a_long_path_is_cut_short_in_the_log(client: httpx2.Client, caplog: pytest.LogCaptureFixture) -> None:
    """Nonsense must not fill the device's disk."""
    with caplog.at_level(logging.WARNING):
        answer = client.get("/" + "a" * 50_000)
    assert answer.status_code == 404
    assert len(answer.json()["error"]) < 500
    records = [record.__dict__["fields"] for record in caplog.records if record.message == "request refused"]
    assert all(len(fields["path"]) <= SHOWN_LETTERS for fields in records)
