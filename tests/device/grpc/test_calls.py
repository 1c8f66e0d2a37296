"""The protocol over gRPC, asked by NVIDIA's clients and with messages of our own: answers, and refusals in words."""

import asyncio
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio
from device_server import HOST, Running, free_port, images, listens, start, until
from grpc_device import (
    SECONDS,
    channel,
    expected,
    infer,
    refusal,
    request,
    speaking,
    status_of,
    tensor,
    typed,
    typed_images,
)
from numpy.typing import NDArray
from picky_model import write_picky_model
from request_images import as_objects, photo
from tiny_artifact import PREPROCESSING
from tiny_package import TinyPackage, colorful, write_tiny_package
from tritonclient.grpc import service_pb2 as messages

from targets.device.model.image_files import decode
from targets.device.model.preprocess import normalize, preprocess

INVALID = grpc.StatusCode.INVALID_ARGUMENT
TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyPackage:
    return write_tiny_package(tmp_path_factory.mktemp("served") / "artifact")


@pytest.fixture(scope="module")
def served(tiny: TinyPackage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    with speaking(tiny.folder, tmp_path_factory.mktemp("log") / "log", MAX_BATCH=8) as started:
        yield started


@pytest.fixture(scope="module")
def client(served: tuple[Running, str]) -> Iterator[Any]:
    with triton.InferenceServerClient(served[1]) as made:
        yield made


@pytest.fixture(scope="module")
def opened(served: tuple[Running, str]) -> Iterator[Any]:
    with channel(served[1]) as made:
        yield made


def three_inputs() -> dict[str, tuple[NDArray[Any], str, NDArray[np.float32]]]:
    """By name: values, datatype, and what the network gets of them."""
    pixels, files = colorful(3, seed=7), [photo("JPEG", 1), photo("PNG", 2), photo("PNG", 3) + b"\0\0"]
    floats = images(3, seed=4)
    return {
        "images": (floats, "FP32", floats),
        "pixels": (pixels, "UINT8", normalize(pixels, PREPROCESSING)),
        "encoded": (as_objects(files), "BYTES", np.stack([preprocess(decode(each), PREPROCESSING) for each in files])),
    }


INPUTS = three_inputs()


def test_the_client_finds_server_and_model(client: Any, tiny: TinyPackage) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", model_version="0.1.0")
    assert client.get_server_metadata(as_json=True) == {"name": "edge-deploy", "version": "0.1.0"}
    assert client.get_model_metadata("tiny", model_version="0.1.0", as_json=True) == {
        "name": "tiny",
        "versions": ["0.1.0"],
        "platform": "onnx_onnxv1",
        "inputs": [
            {"name": "images", "datatype": "FP32", "shape": ["-1", "3", "8", "8"]},
            {"name": "pixels", "datatype": "UINT8", "shape": ["-1", "8", "8", "3"]},
            {"name": "encoded", "datatype": "BYTES", "shape": ["-1"]},
        ],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": ["-1", "4"]}],
    }


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_is_answered_as_by_a_session_of_our_own(client: Any, tiny: TinyPackage, name: str) -> None:
    values, datatype, network_input = INPUTS[name]
    outputs = [triton.InferRequestedOutput("logits")]
    answer = client.infer("tiny", [tensor(name, values, datatype)], outputs=outputs, request_id="seven")
    response = answer.get_response()
    assert (response.model_name, response.model_version, response.id) == ("tiny", "0.1.0", "seven")
    assert len(response.raw_output_contents) == 1
    np.testing.assert_allclose(answer.as_numpy("logits"), expected(tiny, network_input), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", INPUTS)
def test_asyncio_clients_are_answered_alike(served: tuple[Running, str], tiny: TinyPackage, name: str) -> None:
    values, datatype, network_input = INPUTS[name]

    async def ask() -> list[Any]:
        async with tritonclient.grpc.aio.InferenceServerClient(served[1]) as asking:
            assert await asking.is_model_ready("tiny")
            sent = [tensor(name, values, datatype)]
            return list(await asyncio.gather(*[asking.infer("tiny", sent) for _ in range(8)]))

    for answer in asyncio.run(ask()):
        np.testing.assert_allclose(answer.as_numpy("logits"), expected(tiny, network_input), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", INPUTS)
def test_typed_contents_get_typed_contents(opened: Any, tiny: TinyPackage, name: str) -> None:
    values, datatype, network_input = INPUTS[name]
    field = {"FP32": "fp32_contents", "UINT8": "uint_contents", "BYTES": "bytes_contents"}[datatype]
    sent = typed(name, list(values.shape), datatype, **{field: values.ravel().tolist()})
    answer = infer(opened, request(sent))
    assert (answer.id, list(answer.outputs[0].shape), answer.outputs[0].datatype) == ("", [3, 4], "FP32")
    assert not answer.raw_output_contents
    logits = np.reshape(answer.outputs[0].contents.fp32_contents, (3, 4))
    np.testing.assert_allclose(logits, expected(tiny, network_input), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("of_request", "of_output", "is_raw"),
    [(True, None, True), (False, None, False), (True, False, False), (False, True, True), (None, True, True)],
)
def test_parameters_say_how_the_answer_is_written(
    opened: Any, of_request: bool | None, of_output: bool | None, is_raw: bool
) -> None:
    output = messages.ModelInferRequest.InferRequestedOutputTensor(name="logits")
    if of_output is not None:
        output.parameters["binary_data"].bool_param = of_output
    asked = request(typed_images(images(2)), outputs=[output])
    if of_request is not None:
        asked.parameters["binary_data_output"].bool_param = of_request
    answer = infer(opened, asked)
    assert bool(answer.raw_output_contents) is is_raw
    assert bool(answer.outputs[0].contents.fp32_contents) is not is_raw


def classification() -> Any:
    output = messages.ModelInferRequest.InferRequestedOutputTensor(name="logits")
    output.parameters["classification"].int64_param = 3
    return output


def output(name: str) -> Any:
    return messages.ModelInferRequest.InferRequestedOutputTensor(name=name)


ONE = typed_images(images(1))
BARE = typed("images", [1, 3, 8, 8], "FP32")


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        pytest.param(
            request(ONE, model_name="other"),
            grpc.StatusCode.NOT_FOUND,
            "there is no model 'other'; this server has 'tiny'",
            id="model",
        ),
        pytest.param(
            request(ONE, model_version="9"),
            grpc.StatusCode.NOT_FOUND,
            "there is no version '9' of 'tiny'; this server has '0.1.0'",
            id="version",
        ),
        pytest.param(
            request(typed_images(images(9))),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "9 images in one request; 1 to 8 are allowed (MAX_BATCH)",
            id="batch",
        ),
        pytest.param(
            request(ONE, outputs=[output("scores")]),
            INVALID,
            "there is no output 'scores'; the model has 'logits'",
            id="output",
        ),
        pytest.param(
            request(ONE, outputs=[output("logits"), output("logits")]),
            INVALID,
            "the output 'logits' is requested twice",
            id="output twice",
        ),
        pytest.param(
            request(ONE, outputs=[classification()]),
            INVALID,
            "the parameter 'classification' is not supported; request the logits",
            id="classification",
        ),
        pytest.param(request(), INVALID, "the request has no input", id="no input"),
        pytest.param(request(ONE, ONE), INVALID, "the input 'images' is given twice", id="input twice"),
        pytest.param(
            request(BARE),
            INVALID,
            "the input 'images' has neither contents nor raw_input_contents",
            id="no contents",
        ),
        pytest.param(
            request(ONE, raw_input_contents=[b"\0" * 768]),
            INVALID,
            "the input 'images' has both contents and raw_input_contents",
            id="both contents",
        ),
        pytest.param(
            request(BARE, raw_input_contents=[b"\0" * 768] * 2),
            INVALID,
            "raw_input_contents has 2 entries, the request 1 inputs",
            id="too many raw contents",
        ),
        pytest.param(
            request(BARE, raw_input_contents=[b"\0" * 766]),
            INVALID,
            "the input 'images' has 766 binary bytes, not a multiple of 4",
            id="part of a number",
        ),
        pytest.param(
            request(BARE, raw_input_contents=[b"\0" * 764]),
            INVALID,
            "the input 'images' of shape [1, 3, 8, 8] needs 192 values; it has 191",
            id="too few bytes",
        ),
        pytest.param(
            request(typed("images", [1, 3, 8, 8], "FP32", fp32_contents=[0.0] * 193)),
            INVALID,
            "the input 'images' of shape [1, 3, 8, 8] needs 192 values; it has 193",
            id="too many values",
        ),
        pytest.param(
            request(typed("images", [1, 3, 8, 8], "FP32", fp64_contents=[0.0] * 192)),
            INVALID,
            "the input 'images' of the datatype FP32 has fp64_contents; fill only fp32_contents",
            id="other contents",
        ),
        pytest.param(
            request(typed("images", [1, 3, 8, 8], "FP32", fp32_contents=[0.0] * 192, int_contents=[1])),
            INVALID,
            "the input 'images' of the datatype FP32 has int_contents, fp32_contents; fill only fp32_contents",
            id="two contents",
        ),
        pytest.param(
            request(typed("images", [1, 3, 8, 8], "FP32", fp32_contents=[float("nan")] * 192)),
            INVALID,
            "'images' contains values that are not finite float32 numbers",
            id="not finite",
        ),
        pytest.param(
            request(typed("pixels", [1, 8, 8, 3], "UINT8", uint_contents=[256] * 192)),
            INVALID,
            "the data of the input 'pixels' must be from 0 to 255 for UINT8",
            id="256",
        ),
        pytest.param(
            request(typed("images", [1, 3, 8, 8], "FP16", fp32_contents=[0.0])),
            INVALID,
            "the datatype of the input 'images' must be FP32 or UINT8 or BYTES, not 'FP16'",
            id="datatype",
        ),
        pytest.param(
            request(typed("images", [1] * 9, "FP32", fp32_contents=[0.0])),
            INVALID,
            "the input 'images' has 9 dimensions; at most 8 are supported",
            id="dimensions",
        ),
        pytest.param(
            request(typed("images", [-1, 3, 8, 8], "FP32", fp32_contents=[0.0])),
            INVALID,
            "a size in the shape of the input 'images' must be from 1 to 2147483647, not -1",
            id="size",
        ),
        pytest.param(
            request(typed("encoded", [5000], "BYTES", bytes_contents=[b""] * 5000)),
            INVALID,
            "the input 'encoded' has 5000 elements of BYTES; at most 4096 are allowed",
            id="elements",
        ),
        pytest.param(
            request(typed("encoded", [1], "BYTES", bytes_contents=[b""])),
            INVALID,
            "image 0 of 'encoded' cannot be used: the file is empty (0 bytes)",
            id="no image",
        ),
        pytest.param(
            request(typed("encoded", [1], "BYTES"), raw_input_contents=[struct.pack("<I", 5) + b"abc"]),
            INVALID,
            "element 0 of the input 'encoded' announces 5 bytes, but 3 are left",
            id="cut element",
        ),
    ],
)
def test_what_is_wrong_is_said_in_the_status(opened: Any, message: Any, code: grpc.StatusCode, words: str) -> None:
    assert refusal(opened, message) == (code, words)


def test_bytes_that_are_no_message_are_refused(opened: Any) -> None:
    code, words = refusal(opened, b"\xff\xff\xff")
    assert code is INVALID
    assert words.startswith("the message is not a valid ModelInferRequest: ")
    with pytest.raises(grpc.RpcError) as caught:
        opened.stream_unary("/inference.GRPCInferenceService/ServerLive")(iter(()), timeout=SECONDS)
    assert status_of(caught.value) == (INVALID, "the call has no message")


def test_whatever_comes_costs_only_itself(opened: Any) -> None:
    """Good requests with some bytes changed, cut out or put in."""
    random.seed(5)
    files = typed("encoded", [1], "BYTES", bytes_contents=[photo("PNG", 1)])
    good = [
        each.SerializeToString()
        for each in (request(ONE), request(files), request(BARE, raw_input_contents=[b"\0" * 768]))
    ]
    seen = set()
    for _ in range(300):
        data = bytearray(random.choice(good))
        for _ in range(random.randint(1, 4)):
            place = random.randrange(len(data) if random.random() < 0.5 else 60)
            data[place : place + random.randint(0, 3)] = random.randbytes(random.randint(0, 3))
        try:
            infer(opened, bytes(data))
        except grpc.RpcError as error:
            seen.add(status_of(error)[0])
    assert INVALID in seen
    assert seen <= {INVALID, grpc.StatusCode.NOT_FOUND}
    assert len(infer(opened, request(ONE)).outputs) == 1


def test_what_is_not_offered_is_unimplemented(client: Any) -> None:
    for ask in (client.get_model_config, client.get_inference_statistics):
        with pytest.raises(triton.InferenceServerException) as caught:
            ask("tiny")
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_a_failing_runtime_is_no_fault_of_the_request_and_is_told_in_the_log(tmp_path: Path) -> None:
    write_picky_model(tmp_path)
    with speaking(tmp_path, tmp_path / "log") as (running, address), channel(address) as asking:
        code, words = refusal(asking, request(typed_images(images(2))))
        assert (code, words) == (grpc.StatusCode.INTERNAL, "internal error; the server's log has the details")
        assert infer(asking, request(typed_images(images(3)))).outputs[0].shape == [3, 4]
        (trace,) = [entry["traceback"] for entry in running.logged() if "traceback" in entry]
        assert "SessionError: ONNX Runtime" in trace


def test_tokens_are_asked_of_who_infers(tiny: TinyPackage, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(TOKEN + "\n")
    unauthenticated = grpc.StatusCode.UNAUTHENTICATED
    with (
        speaking(tiny.folder, tmp_path / "log", TOKEN_FILE=tmp_path / "tokens", MAX_WAITING=1) as (_, address),
        channel(address) as asking,
        triton.InferenceServerClient(address) as client,
    ):
        assert client.is_server_ready()
        assert client.get_model_metadata("tiny").name == "tiny"
        for _ in range(2):
            assert refusal(asking, request(ONE)) == (
                unauthenticated,
                "a token is required: send the header 'Authorization: Bearer TOKEN'",
            )
        wrong = [("authorization", f"Bearer {TOKEN[::-1]}")]
        assert refusal(asking, request(ONE), metadata=wrong) == (
            unauthenticated,
            "the token is not one of this server's (TOKEN_FILE)",
        )
        assert infer(asking, request(ONE), metadata=[("authorization", f"Bearer {TOKEN}")]).model_name == "tiny"
        headers = {"authorization": f"bearer {TOKEN}"}
        sent = [tensor("images", images(1), "FP32")]
        assert client.infer("tiny", sent, headers=headers).as_numpy("logits").shape == (1, 4)


def test_answers_and_refusals_are_counted_as_those_over_http(tiny: TinyPackage, tmp_path: Path) -> None:
    with speaking(tiny.folder, tmp_path / "log") as (running, address), channel(address) as asking:
        infer(asking, request(typed_images(images(2))))
        refusal(asking, request(ONE, model_name="other"))
        with httpx2.Client(base_url=f"http://{running.url}") as http:
            text = http.get("/metrics").text
            assert http.get("/status.json").json()["requests"]["answered"] == 1
    assert 'edge_deploy_requests_total{protocol="grpc",status="200"} 1.0' in text
    assert 'edge_deploy_requests_total{protocol="grpc",status="404"} 1.0' in text
    assert 'edge_deploy_errors_total{kind="not_found"} 1.0' in text
    assert "edge_deploy_images_total 2.0" in text
    assert "edge_deploy_request_seconds_count 1.0" in text
    (logged,) = [entry for entry in running.logged() if entry["message"] == "request refused"]
    assert (logged["path"], logged["status"]) == ("/inference.GRPCInferenceService/ModelInfer", 404)


def test_what_will_never_be_ready_says_why(tmp_path: Path) -> None:
    port = free_port()
    running = start(tmp_path, tmp_path / "log", GRPC_PORT=port)
    try:
        running.wait_for("the model cannot be served")
        until(lambda: listens(port), running)
        with triton.InferenceServerClient(f"{HOST}:{port}") as client:
            assert client.is_server_live()
            assert not client.is_server_ready()
            for ask in (client.infer, client.get_model_metadata):
                with pytest.raises(triton.InferenceServerException, match=r"manifest\.json") as caught:
                    ask("tiny", *([[tensor("images", images(1), "FP32")]] if ask == client.infer else []))
                assert caught.value.status() == "StatusCode.UNAVAILABLE"
        assert running.stop() == 0
    finally:
        running.process.kill()
        running.process.wait()
