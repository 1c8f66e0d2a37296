"""The server in a process of its own, asked by NVIDIA's client and by ours."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton
from device_server import HOST, Running, answer_of, http_request, images, json_request, serving
from malformed_requests import GOOD
from numpy.typing import NDArray
from picky_model import write_picky_model
from tiny_package import TinyPackage, write_tiny_package

from pipeline.containers.client import InferenceClient
from targets.device.model.cpu import instruction_set
from targets.device.open_session import open_session

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyPackage:
    return write_tiny_package(tmp_path_factory.mktemp("served") / "artifact")


@pytest.fixture(scope="module")
def running(tiny: TinyPackage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that takes up to eight images, and two requests at a time."""
    log = tmp_path_factory.mktemp("log") / "log"
    with serving(tiny.folder, log, MAX_BATCH=8, MAX_WAITING=2) as started:
        yield started


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.url) as made:
        yield made


def expected(tiny: TinyPackage, values: Array) -> Array:
    """What a session in this process answers."""
    with open_session(tiny.folder, tiny.manifest) as session:
        return session.infer(values)


def asked_with(values: Array, *, binary: bool) -> list[Any]:
    asked = triton.InferInput("images", list(values.shape), "FP32")
    asked.set_data_from_numpy(values, binary_data=binary)
    return [asked]


def test_the_client_finds_server_and_model(client: Any, tiny: TinyPackage) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", model_version="0.1.0")
    assert client.get_server_metadata() == {
        "name": "edge-deploy",
        "version": "0.1.0",
        "extensions": ["binary_tensor_data"],
    }
    for metadata in (client.get_model_metadata("tiny"), client.get_model_metadata("tiny", model_version="0.1.0")):
        assert metadata == {
            "name": "tiny",
            "versions": ["0.1.0"],
            "platform": "onnx_onnxv1",
            "inputs": [
                {"name": "images", "datatype": "FP32", "shape": [-1, 3, 8, 8]},
                {"name": "pixels", "datatype": "UINT8", "shape": [-1, 8, 8, 3]},
                {"name": "encoded", "datatype": "BYTES", "shape": [-1]},
            ],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 4]}],
            "parameters": {
                "classes": ["a", "b", "c", "d"],
                "target": "cpu",
                "precision": "int8",
                "variant": "main",
                "variant_reason": "int8 sums on this CPU are the same as on the one it was proven on",
                "model_sha256": tiny.manifest.model_sha256,
                "runs_on": f"onnxruntime {onnxruntime.__version__} on {instruction_set()}",
            },
        }


@pytest.mark.parametrize("sent_binary", [True, False], ids=["binary in", "JSON in"])
@pytest.mark.parametrize("wanted_binary", [True, False, None], ids=["binary out", "JSON out", "nothing said"])
def test_answers_are_those_of_a_session_of_our_own(
    client: Any, tiny: TinyPackage, sent_binary: bool, wanted_binary: bool | None
) -> None:
    values = images(5, seed=4)
    outputs = None if wanted_binary is None else [triton.InferRequestedOutput("logits", binary_data=wanted_binary)]
    answer = client.infer(
        "tiny", asked_with(values, binary=sent_binary), outputs=outputs, model_version="0.1.0", request_id="seven"
    )
    response = answer.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("tiny", "0.1.0", "seven")
    assert ("data" in response["outputs"][0]) is (wanted_binary is False)
    logits = answer.as_numpy("logits")
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected(tiny, values), rtol=0, atol=1e-5)


def test_without_an_id_there_is_none(client: Any) -> None:
    assert "id" not in client.infer("tiny", asked_with(images(1), binary=True)).get_response()


@pytest.mark.parametrize(
    ("model", "count", "output", "status", "message"),
    [
        pytest.param("other", 1, "logits", "404", "no model 'other'", id="model"),
        pytest.param("tiny", 9, "logits", "413", "9 images in one request; 1 to 8 are allowed", id="batch"),
        pytest.param("tiny", 1, "scores", "400", "no output 'scores'; the model has 'logits'", id="output"),
    ],
)
def test_the_client_hears_why_it_is_refused(
    client: Any, model: str, count: int, output: str, status: str, message: str
) -> None:
    asked = asked_with(images(count), binary=True)
    with pytest.raises(triton.InferenceServerException, match=message) as caught:
        client.infer(model, asked, outputs=[triton.InferRequestedOutput(output)])
    assert caught.value.status() == status
    assert client.infer("tiny", asked_with(images(1), binary=True)).as_numpy("logits").shape == (1, 4)


def test_what_is_not_offered_is_refused_in_words(client: Any) -> None:
    for ask in (client.get_model_config, client.get_inference_statistics):
        with pytest.raises(triton.InferenceServerException, match="Not Found"):
            ask("tiny")


def test_clients_at_the_same_time_get_their_own_answers(tiny: TinyPackage, tmp_path: Path) -> None:
    def ask(seed: int) -> bool:
        values = images(3, seed=seed)
        client = InferenceClient(HOST, server.port, tiny.manifest)
        try:
            answers = [client.infer(values) for _ in range(5)]
        finally:
            client.close()
        return all(np.allclose(answer, expected(tiny, values), rtol=0, atol=1e-5) for answer in answers)

    with serving(tiny.folder, tmp_path / "log") as server, ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(16)))


@pytest.mark.slow
def test_more_requests_than_are_held_are_asked_to_come_again(tiny: TinyPackage, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"MAX_WAITING": 2, "BATCH_IMAGES": 8, "BATCH_DELAY_MS": 2000}
    with serving(tiny.folder, tmp_path / "log", **settings) as running, ExitStack() as clients:
        held = [clients.enter_context(running.connect()) for _ in range(2)]
        for connection in held:
            connection.sendall(http_request(GOOD))
        time.sleep(0.2)
        message = "2 requests are already being answered (MAX_WAITING); try again"
        assert running.ask(http_request(GOOD)) == (429, {"error": message})
        for connection in held:
            assert answer_of(connection)[0] == 200
        assert running.ask(http_request(GOOD))[0] == 200


def test_a_body_is_asked_for_and_answered(running: Running) -> None:
    head, _, _ = http_request(GOOD, "Expect: 100-continue").partition(b"\r\n\r\n")
    with running.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(GOOD)
        assert answer_of(connection)[0] == 200


def test_a_client_that_stops_in_the_middle_loses_its_place(tiny: TinyPackage, tmp_path: Path) -> None:
    with (
        serving(tiny.folder, tmp_path / "log", BODY_SECONDS=1, MAX_WAITING=1) as running,
        running.connect() as silent,
    ):
        silent.sendall(http_request(GOOD)[:-10])
        with silent.makefile("rb") as stream:
            head, _, body = stream.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"\r\nConnection: close" in head
        assert json.loads(body) == {"error": "the body did not arrive within 1 s (BODY_SECONDS)"}
        assert running.ask(http_request(GOOD))[0] == 200


def test_a_failing_runtime_is_no_fault_of_the_request_and_is_told_in_the_log(tmp_path: Path) -> None:
    write_picky_model(tmp_path)
    with serving(tmp_path, tmp_path / "log") as running:
        status, answer = running.ask(http_request(json.dumps(json_request(images(2))).encode()))
        assert (status, answer) == (500, {"error": "internal error; the server's log has the details"})
        assert running.ask(http_request(json.dumps(json_request(images(3))).encode()))[0] == 200
        (trace,) = [entry["traceback"] for entry in running.logged() if "traceback" in entry]
        assert "SessionError: ONNX Runtime" in trace
