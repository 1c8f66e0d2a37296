"""Responses as bytes."""

import http.client
import io
import json

import pytest

from targets.device.server.messages import Request, Response, error_response, json_response

DATE = b"Date: Tue, 01 Jan 2030 00:00:00 GMT\r\n"


class Wire:
    """What `http.client` reads from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def read(response: Response, *, keeps: bool = True, is_http_1_0: bool = False) -> http.client.HTTPResponse:
    """By the standard library's client."""
    head = response.head(keeps=keeps, is_http_1_0=is_http_1_0, date=DATE)
    answer = http.client.HTTPResponse(Wire(head + response.body))  # type: ignore[arg-type]
    answer.begin()
    return answer


def test_a_response_is_read_as_it_was_meant() -> None:
    answer = read(Response(200, b"abc", "text/plain", [("X-A", "1"), ("Vary", "Accept-Encoding")]))
    assert (answer.status, answer.reason, answer.read()) == (200, "OK", b"abc")
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.headers["Content-Length"] == "3"
    assert answer.headers["X-A"] == "1"
    assert answer.headers["Date"].endswith("GMT")


@pytest.mark.parametrize(
    ("keeps", "is_http_1_0", "connection"),
    [(True, False, None), (False, False, "close"), (True, True, "keep-alive"), (False, True, "close")],
)
def test_a_client_hears_whether_the_connection_goes_on(keeps: bool, is_http_1_0: bool, connection: str | None) -> None:
    assert read(json_response({}), keeps=keeps, is_http_1_0=is_http_1_0).headers["Connection"] == connection


def test_json_is_utf_8() -> None:
    answer = read(json_response({"name": "Zürich"}, 503))
    assert answer.status == 503
    assert json.loads(answer.read()) == {"name": "Zürich"}


def test_a_refusal_may_quote_anything() -> None:
    """Half a surrogate pair is no UTF-8, and a header's value no place for other alphabets."""
    answer = read(error_response("no \ud800 here", 400, [("X-A", "Ж")]))
    assert json.loads(answer.read()) == {"error": "no \ud800 here"}
    assert answer.headers["X-A"] == "?"


def test_a_request_begins_without_rights() -> None:
    request = Request("GET", "/", {})
    assert (request.body, request.has_certificate, request.is_admitted) == (b"", False, False)
