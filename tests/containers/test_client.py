"""The client against the real server in its container, against none, and against one that is no server of ours."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from tiny_artifact import PREPROCESSING, manifest_of
from tiny_package import Packaged, colorful

from pipeline.containers import client as inference
from pipeline.containers.client import InferenceClient
from pipeline.errors import PackageError
from targets.device.model.preprocess import normalize
from targets.device.open_session import open_session

MANIFEST = manifest_of(Path(), "0" * 64)
IMAGES = np.zeros((2, *MANIFEST.input_shape), np.float32)


@contextmanager
def serving(status: int, body: bytes) -> Iterator[InferenceClient]:
    """A client of an HTTP server that answers everything alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        client = InferenceClient("127.0.0.1", server.server_port, MANIFEST)
        try:
            yield client
        finally:
            client.close()
            server.shutdown()
            thread.join()


@pytest.fixture
def nobody() -> InferenceClient:
    """A client of a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return InferenceClient("127.0.0.1", port, MANIFEST)


@pytest.mark.docker
def test_any_number_of_images_gets_the_logits_of_the_same_model_here(
    client: InferenceClient, packaged: Packaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = normalize(colorful(150, seed=3), PREPROCESSING)
    with open_session(packaged.tiny.folder, packaged.tiny.manifest) as session:
        expected = session.infer(images)
    np.testing.assert_array_equal(client.infer(images), expected)
    monkeypatch.setattr(inference, "MAX_BODY_BYTES", images[0].nbytes * 7)
    np.testing.assert_array_equal(client.infer(images), expected)
    monkeypatch.setattr(inference, "MAX_BODY_BYTES", 1)
    np.testing.assert_array_equal(client.infer(images[:2]), expected[:2])


@pytest.mark.docker
def test_the_client_knows_the_artifact_and_where_it_runs(client: InferenceClient, packaged: Packaged) -> None:
    assert client.manifest == packaged.tiny.manifest
    runtime, instruction_set = client.runs_on()
    assert runtime == packaged.tiny.report.runtime
    assert instruction_set == packaged.tiny.report.instruction_set


@pytest.mark.docker
def test_a_refusal_is_quoted_and_the_next_question_answered(client: InferenceClient) -> None:
    with pytest.raises(
        PackageError, match=r"refused 1 images: .*must have the shape \[N, 3, 8, 8\], not \[1, 3, 9, 9\]"
    ):
        client.infer(np.zeros((1, 3, 9, 9), np.float32))
    assert client.infer(np.zeros((1, 3, 8, 8), np.float32)).shape == (1, 4)


@pytest.mark.docker
def test_another_models_name_is_refused(client: InferenceClient) -> None:
    port = int(client.url.rpartition(":")[2])
    other = InferenceClient("127.0.0.1", port, replace(client.manifest, name="other"))
    said = r"returned status 404: .*there is no model 'other'; this server has 'tiny'"
    with pytest.raises(PackageError, match=said):
        other.runs_on()
    other.close()


def test_where_nobody_listens_nothing_is_ready_and_nothing_has_failed(nobody: InferenceClient) -> None:
    state = nobody.readiness()
    assert (state.is_ready, state.has_failed, state.reason) == (False, False, "")
    with pytest.raises(PackageError, match="stopped responding"):
        nobody.infer(IMAGES)
    with pytest.raises(PackageError, match="does not respond"):
        nobody.runs_on()


@pytest.mark.parametrize(
    ("status", "body", "is_ready", "has_failed", "reason"),
    [
        pytest.param(200, b'{"ready": true}', True, False, "", id="ready"),
        pytest.param(503, b'{"loading": true, "error": "wait"}', False, False, "wait", id="loading"),
        pytest.param(503, b'{"loading": false, "error": "broken"}', False, True, "broken", id="failed"),
        pytest.param(502, b"<html>", False, False, "", id="something-else"),
    ],
)
def test_readiness_is_what_the_server_says(
    status: int, body: bytes, is_ready: bool, has_failed: bool, reason: str
) -> None:
    with serving(status, body) as client:
        state = client.readiness()
    assert (state.is_ready, state.has_failed, state.reason) == (is_ready, has_failed, reason)


def test_an_answer_that_is_no_json_is_an_error_of_ours() -> None:
    with serving(200, b"hello") as client, pytest.raises(PackageError, match="does not respond"):
        client.runs_on()
