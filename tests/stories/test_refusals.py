"""Whatever a client sends: an answer with a status below 500, and a message where it is refused."""

import gzip
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from device_server import INFER, Running, answer_of, answering, http_request, images, json_request, serving
from malformed_requests import GOOD, MALFORMED, Headers
from tiny_package import write_tiny_package

MAX_BODY = 1 << 20


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("served") / "artifact").folder


@pytest.fixture(scope="module")
def client(artifact: Path) -> Iterator[httpx2.Client]:
    with answering(artifact, max_batch=4, max_body_bytes=MAX_BODY) as made:
        yield made


@pytest.mark.parametrize(
    ("content", "message"), [pytest.param(content, message, id=name) for name, content, message in MALFORMED]
)
def test_malformed_requests_are_refused(
    client: httpx2.Client, content: bytes | tuple[bytes, Headers], message: str
) -> None:
    sent, headers = content if isinstance(content, tuple) else (content, {})
    response = client.post(INFER, content=sent, headers=headers)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/v2/models/other/infer", 404, "no model 'other'; this server has 'tiny'"),
        ("GET", "/v2/models/other", 404, "no model 'other'"),
        ("GET", "/v2/models/other/ready", 404, "no model 'other'"),
        ("GET", "/v2/models/%ff%00%0a", 404, "no model"),
        ("POST", "/v2/models/tiny/versions/7/infer", 404, "no version '7' of 'tiny'; this server has '0.1.0'"),
        ("GET", "/v2/models/tiny/versions/7", 404, "no version '7'"),
        ("GET", INFER, 405, "Method Not Allowed"),
        ("DELETE", "/v2/models/tiny", 405, "Method Not Allowed"),
        ("POST", "/v2/health/ready", 405, "Method Not Allowed"),
        ("GET", "/v2/models/tiny/config", 404, "Not Found"),
        ("GET", "/v2/models/tiny/stats", 404, "Not Found"),
        ("POST", "/v2/repository/index", 404, "Not Found"),
        ("GET", "/index.html", 404, "Not Found"),
        ("GET", "/v2/../../etc/passwd", 404, "Not Found"),
    ],
)
def test_wrong_addresses_are_refused(client: httpx2.Client, method: str, path: str, status: int, message: str) -> None:
    response = client.request(method, path, content=GOOD if method == "POST" else None)
    assert response.status_code == status
    assert message in response.json()["error"]


def test_bodies_beyond_the_limit_are_refused_announced_or_not(client: httpx2.Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b"x" * 1000] * (MAX_BODY // 1000 + 1)

    assert client.post(INFER, content=b" " * (MAX_BODY - len(GOOD)) + GOOD).status_code == 200
    for content in (b"x" * (MAX_BODY + 1), chunks()):
        response = client.post(INFER, content=content)
        assert response.status_code == 413
        assert f"larger than the limit of {MAX_BODY} bytes (MAX_BODY_MIB)" in response.json()["error"]


def test_more_images_than_a_batch_are_too_large(client: httpx2.Client) -> None:
    response = client.post(INFER, json=json_request(images(5)))
    assert (response.status_code, response.json()) == (
        413,
        {"error": "5 images in one request; 1 to 4 are allowed (MAX_BATCH)"},
    )


def test_bodies_may_be_compressed_and_other_encodings_are_refused_by_their_name(client: httpx2.Client) -> None:
    for name, content in (("gzip", gzip.compress(GOOD)), ("Deflate", zlib.compress(GOOD)), ("Identity", GOOD)):
        assert client.post(INFER, content=content, headers={"Content-Encoding": name}).status_code == 200
    response = client.post(INFER, content=GOOD, headers={"Content-Encoding": "br"})
    assert (response.status_code, "'br' is not supported" in response.json()["error"]) == (415, True)
    response = client.post(INFER, content=GOOD, headers={"Content-Encoding": "gzip"})
    assert (response.status_code, "is not valid gzip" in response.json()["error"]) == (400, True)


def test_a_compressed_bomb_is_refused_before_it_unfolds(client: httpx2.Client) -> None:
    bomb = gzip.compress(bytes(200 * MAX_BODY))
    assert len(bomb) < MAX_BODY
    tracemalloc.start()
    response = client.post(INFER, content=bomb, headers={"Content-Encoding": "gzip"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (response.status_code, "the decompressed body" in response.json()["error"]) == (413, True)
    assert peak < 8 * MAX_BODY


NOT_HTTP = [
    pytest.param(b"hello\r\n\r\n", id="no request"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="TLS"),
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
    pytest.param(b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", id="path"),
    pytest.param(http_request(b"", "Content-Length: 5"), id="two lengths"),
    pytest.param(
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", id="negative length"
    ),
    pytest.param(b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n", id="no length"),
    pytest.param(
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n{", id="encoding"
    ),
    pytest.param(
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="chunk"
    ),
    pytest.param(
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        id="huge length",
    ),
]


@pytest.fixture(scope="module")
def listening(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(artifact, tmp_path_factory.mktemp("log") / "log") as running:
        yield running
        assert running.stop() == 0
        assert not [entry for entry in running.logged() if "traceback" in entry or entry["level"] == "error"]


@pytest.mark.parametrize("sent", NOT_HTTP)
def test_what_is_no_http_is_refused_like_everything_else(listening: Running, sent: bytes) -> None:
    status, answer = listening.ask(sent)
    assert status == 400
    assert list(answer) == ["error"]


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, id="one endless header"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 200 + b"\r\n", id="many headers"),
        pytest.param(b"GET /" + b"a" * 70_000, id="an endless path"),
    ],
)
def test_a_head_without_end_is_refused(listening: Running, head: bytes) -> None:
    status, answer = listening.ask(head)
    assert (status, "larger than 65536 bytes or 100 headers" in answer["error"]) == (431, True)


def test_a_body_announced_as_too_large_is_not_waited_for(listening: Running) -> None:
    with listening.connect() as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".encode())
        status, answer = answer_of(connection)
    assert (status, "larger than" in answer["error"]) == (413, True)


def test_a_client_that_breaks_off_or_breaks_the_protocol_late_leaves_no_trace(listening: Running) -> None:
    whole = http_request(GOOD)
    for length in (10, 60, len(whole) - len(GOOD), len(whole) - 1):
        with listening.connect() as connection:
            connection.sendall(whole[:length])
    with listening.connect() as connection:
        # Refused for its encoding, and in the middle of a body that then turns out to be none.
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode())
        connection.sendall(b"Content-Encoding: br\r\n\r\n5\r\nhello\r\n")
        assert answer_of(connection)[0] == 415
        connection.sendall(b"no chunk\r\n")
        assert connection.recv(1) == b""
    assert listening.ask(whole)[0] == 200


def test_only_requests_to_infer_may_have_a_large_body(client: httpx2.Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b"x" * 1000] * 70

    for content in (b"x" * 70_000, chunks()):
        response = client.request("GET", "/v2/health/live", content=content)
        said = "larger than the limit of 65536 bytes"
        assert (response.status_code, said in response.json()["error"]) == (413, True)
    assert client.request("GET", "/v2/health/live", content=b"x" * 1000).status_code == 200
