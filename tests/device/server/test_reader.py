"""Bytes to requests: the same whatever pieces they come in, within limits of our own."""

import tracemalloc
from dataclasses import dataclass, field

import pytest

from targets.device.server.messages import Request
from targets.device.server.reader import DISCARDED_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, Reader, path_of
from targets.device.server.tensors import RequestError

HOST = b"Host: test\r\n"
LIMIT = 1 << 20


@dataclass
class Found:
    """A connection that writes down what the reader calls; `refused_for` is what its head is refused for."""

    refused_for: RequestError | None = None
    requests: list[Request] = field(default_factory=list)
    refusals: list[RequestError | None] = field(default_factory=list)
    keeps: list[bool] = field(default_factory=list)
    errors: list[RequestError] = field(default_factory=list)
    begun: int = 0
    continued: int = 0

    def on_begin(self) -> None:
        self.begun += 1

    def on_head(self, request: Request) -> None:
        request.is_admitted = True
        request.max_body_bytes = LIMIT
        if self.refused_for is not None:
            raise self.refused_for

    def on_request(self, request: Request, refusal: RequestError | None, *, keeps: bool) -> None:
        self.requests.append(request)
        self.refusals.append(refusal)
        self.keeps.append(keeps)

    def on_refused(self, request: Request | None, error: RequestError) -> None:
        self.errors.append(error)

    def on_continue(self) -> None:
        self.continued += 1


def read(*pieces: bytes, refused_for: RequestError | None = None) -> Found:
    found = Found(refused_for)
    reader = Reader(found)
    for piece in pieces:
        reader.feed(piece)
    return found


def post(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /a?b HTTP/1.1", HOST.strip(), b"Content-Length: %d" % len(body), *headers, b"", b""]
    return b"\r\n".join(lines) + body


def chunked(*chunks: bytes, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    return (
        head
        + b"".join(b"%x%s\r\n%s\r\n" % (len(each), extension, each) for each in (*chunks, b"")[:-1])
        + (b"0\r\n" + trailer + b"\r\n")
    )


@pytest.mark.parametrize("size", [1, 2, 7, 100_000])
def test_requests_are_the_same_in_whatever_pieces_they_come(size: int) -> None:
    sent = post(b"one", b"X-A: 1", b"x-a: 2") + chunked(b"tw", b"o") + b"GET http://h/c HTTP/1.0\r\n\r\n"
    found = read(*(sent[start : start + size] for start in range(0, len(sent), size)))
    assert [(each.method, each.path, each.body) for each in found.requests] == [
        ("POST", "/a", b"one"),
        ("POST", "/", b"two"),
        ("GET", "/c", b""),
    ]
    assert found.requests[0].headers["x-a"] == "2"
    assert [each.is_http_1_0 for each in found.requests] == [False, False, True]
    assert found.keeps == [True, True, False]
    assert found.begun == 3
    assert found.errors == []


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"\x16\x03\x01\x02\x00", "not valid HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not valid HTTP"),
        (b"GET / HTTP/1.1\r\nA b: c\r\n\r\n", "not valid HTTP"),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "not valid HTTP"),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", "not valid HTTP"),
        (chunked(b"a")[:-5] + b"zz\r\n", "not valid HTTP"),
        (b"GET / HTTP/1.1\r\n\r\n", "no Host header"),
    ],
)
def test_what_is_no_http_is_refused_once(sent: bytes, message: str) -> None:
    found = read(sent, b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert message in str(found.errors[0])
    assert [each.status for each in found.errors] == [400]
    assert found.requests == []


def test_length_and_chunks_together_are_refused() -> None:
    """They are how requests are smuggled past a proxy that believes the other one."""
    sent = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert [each.status for each in read(sent).errors] == [400]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n" + HOST + b"\r\n", id="address"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n", id="header"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"A:\r\n" * MAX_HEADERS + b"\r\n", id="headers"),
    ],
)
@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_a_head_has_limits(sent: bytes, size: int) -> None:
    found = read(*(sent[start : start + size] for start in range(0, len(sent), size)))
    assert [each.status for each in found.errors] == [431]
    assert found.requests == []


def test_a_head_that_does_not_end_is_refused_before_it_ends() -> None:
    found = read(b"GET / HTTP/1.1\r\nA: ", *([b"a" * 1000] * 70))
    assert [each.status for each in found.errors] == [431]


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_head_within_the_limit_is_taken_in_whatever_pieces_it_comes(size: int) -> None:
    sent = b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"a" * (MAX_HEAD_BYTES - 1000) + b"\r\n\r\n"
    found = read(*(sent[start : start + size] for start in range(0, len(sent), size)))
    assert found.errors == []
    assert len(found.requests) == 1


def test_the_body_before_it_does_not_count_as_part_of_a_head() -> None:
    found = read(post(b"x" * 200_000) + b"GET / HT", b"TP/1.1\r\n" + HOST + b"\r\n")
    assert found.errors == []
    assert len(found.requests) == 2


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(chunked()[:-2] + b"A: ", id="trailer"),
        pytest.param(chunked()[:-5] + b"1;", id="chunk-extension"),
    ],
)
def test_what_brings_a_body_no_further_has_a_limit(start: bytes) -> None:
    """A trailer is collected by the parser; without a limit it would fill the memory."""
    found = read(start, *([b"a" * 1000] * 100))
    assert [each.status for each in found.errors] == [431]


def test_trailers_are_passed_over() -> None:
    (request,) = read(chunked(b"a", trailer=b"Authorization: x\r\n")).requests
    assert request.body == b"a"
    assert "authorization" not in request.headers


def test_a_body_in_tiny_pieces_takes_no_more_memory_than_its_size() -> None:
    found = Found()
    reader = Reader(found)
    pieces = chunked(*[b"ab"] * (LIMIT // 2))
    tracemalloc.start()
    try:
        for start in range(0, len(pieces), 4096):
            reader.feed(pieces[start : start + 4096])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.requests[0].body) == LIMIT
    assert peak < 4 * LIMIT


def test_a_chunked_body_that_becomes_too_large_is_refused_at_once() -> None:
    found = read(chunked(b"x" * LIMIT, b"y")[:-5], b"z" * 1000)
    assert [each.status for each in found.errors] == [413]


def test_a_refused_request_is_read_to_its_end_where_it_is_short() -> None:
    error = RequestError("no", status=404)
    found = read(post(b"x" * 1000) + post(b"y"), refused_for=error)
    assert found.refusals == [error, error]
    assert [each.body for each in found.requests] == [b"", b""]
    assert found.errors == []


@pytest.mark.parametrize(
    "sent",
    [
        post(b"x" * (DISCARDED_BYTES + 1))[:200],
        post(b"abc", b"Expect: 100-continue"),
        chunked(b"abc"),
    ],
)
def test_a_refused_request_of_unknown_or_great_length_is_answered_at_once(sent: bytes) -> None:
    error = RequestError("no", status=404)
    found = read(sent, refused_for=error)
    assert found.errors == [error]
    assert found.requests == []


def test_a_client_that_waits_is_told_to_go_on() -> None:
    found = read(post(b"abc", b"Expect: 100-continue"))
    assert found.continued == 1
    assert found.requests[0].body == b"abc"


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_an_offer_of_another_protocol_is_passed_over(size: int) -> None:
    """Java's client and `curl --http2` offer h2c with their first request, whatever its method."""
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAA")
    sent = post(b"abc", *offer) + post(b"", *offer) + post(b"de")
    found = read(*(sent[start : start + size] for start in range(0, len(sent), size)))
    assert found.errors == []
    assert [(each.path, each.body) for each in found.requests] == [("/a", b"abc"), ("/a", b""), ("/a", b"de")]
    assert found.keeps == [True, True, True]


def test_a_tunnel_is_refused() -> None:
    found = read(b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n", b"anything")
    assert [each.status for each in found.errors] == [405]


def test_a_bug_in_what_is_called_is_no_fault_of_the_client(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Found):
        def on_request(self, request: Request, refusal: RequestError | None, *, keeps: bool) -> None:
            raise KeyError("a bug")

    found = Broken()
    Reader(found).feed(post(b"abc"))
    assert [each.status for each in found.errors] == [500]
    assert "a bug" in caplog.text


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (b"/v2", "/v2"),
        (b"/v2?x=1#y", "/v2"),
        (b"http://host:80/v2?x", "/v2"),
        (b"http://host", "/"),
        (b"*", "*"),
        (b"//host/v2", "//host/v2"),
        (b"/caf\xc3\xa9", "/cafÃ©"),
    ],
)
def test_the_path_of_an_address(url: bytes, path: str) -> None:
    assert path_of(url) == path
