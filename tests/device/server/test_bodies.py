"""gzip and deflate, there and back, and what is neither."""

import gzip
import tracemalloc
import zlib

import pytest

from targets.device.server.bodies import accepted_encoding, compress_body, content_encoding, decompress_body
from targets.device.server.tensors import RequestError

BODY = b"some words " * 100
LIMIT = 1 << 20


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_what_is_compressed_comes_back(name: str) -> None:
    assert decompress_body(compress_body(BODY, name), name, len(BODY)) == BODY
    assert len(compress_body(BODY, name)) < len(BODY)


def test_the_formats_are_those_of_other_programs() -> None:
    assert gzip.decompress(compress_body(BODY, "gzip")) == BODY
    assert zlib.decompress(compress_body(BODY, "deflate")) == BODY
    assert decompress_body(gzip.compress(BODY), "gzip", LIMIT) == BODY
    assert decompress_body(zlib.compress(BODY), "deflate", LIMIT) == BODY
    assert decompress_body(BODY, "identity", 1) == BODY


@pytest.mark.parametrize(
    ("body", "message", "status"),
    [
        pytest.param(b"", "it is truncated", 400, id="empty"),
        pytest.param(gzip.compress(BODY)[:-1], "it is truncated", 400, id="cut"),
        pytest.param(BODY, "is not valid gzip", 400, id="plain"),
        pytest.param(zlib.compress(BODY), "is not valid gzip", 400, id="deflate"),
        pytest.param(gzip.compress(BODY)[:-8] + b"\0" * 8, "is not valid gzip", 400, id="checksum"),
        pytest.param(gzip.compress(BODY) + b"x", "1 bytes follow", 400, id="tail"),
        pytest.param(gzip.compress(BODY) * 2, "bytes follow", 400, id="twice"),
        pytest.param(gzip.compress(b" " * (LIMIT + 1)), "the decompressed body is larger", 413, id="larger by one"),
    ],
)
def test_what_is_damaged_or_too_large_is_refused(body: bytes, message: str, status: int) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        decompress_body(body, "gzip", LIMIT)
    assert caught.value.status == status


def test_a_bomb_is_not_inflated_beyond_the_limit() -> None:
    bomb = gzip.compress(b"\0" * (64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="the decompressed body is larger"):
            decompress_body(bomb, "gzip", LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMIT


@pytest.mark.parametrize(
    ("header", "name"),
    [(None, "identity"), ("", "identity"), ("gzip", "gzip"), (" GZip ", "gzip"), ("deflate", "deflate")],
)
def test_a_known_coding(header: str | None, name: str) -> None:
    assert content_encoding(header) == name


@pytest.mark.parametrize("header", ["br", "gzip, gzip", "x-gzip", "chunked", "é"])
def test_an_unknown_coding_is_named(header: str) -> None:
    with pytest.raises(RequestError, match="is not supported; use gzip or deflate") as caught:
        content_encoding(header)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (None, "identity"),
        ("", "identity"),
        ("gzip, deflate, br", "gzip"),
        ("br", "identity"),
        ("deflate", "deflate"),
        ("gzip;q=0, deflate;q=0.5", "deflate"),
        ("gzip;q=0", "identity"),
        ("gzip;q=0.000", "identity"),
        ("GZIP ; q=1", "gzip"),
        ("gzip;q=nan", "identity"),
        ("gzip;q=many", "identity"),
        ("gzip;level=1", "gzip"),
        (",,;q=;", "identity"),
    ],
)
def test_what_an_answer_may_be_compressed_with(header: str | None, name: str) -> None:
    assert accepted_encoding(header) == name
