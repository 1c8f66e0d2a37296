"""NVIDIA's asyncio client of HTTP: JSON and binary tensors, bodies compressed either way."""

import asyncio
import json
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as asynchronous
from device_server import Running, images
from numpy.typing import NDArray
from tiny_package import TinyPackage
from tiny_served import running, tiny

from targets.device.open_session import open_session
from targets.device.server.bodies import MIN_BYTES

__all__ = ["running", "tiny"]
CODINGS = [None, "gzip", "deflate"]
# So many that their answer is worth compressing.
VALUES = images(64, seed=4)


@pytest.fixture(scope="module")
def logits(tiny: TinyPackage) -> NDArray[np.float32]:
    """What a session in this process answers."""
    with open_session(tiny.folder, tiny.manifest) as session:
        return session.infer(VALUES)


def asked(values: NDArray[np.float32], *, binary: bool) -> list[Any]:
    made = asynchronous.InferInput("images", list(values.shape), "FP32")
    made.set_data_from_numpy(values, binary_data=binary)
    return [made]


@pytest.mark.parametrize("response_coding", CODINGS, ids=["plain out", "gzip out", "deflate out"])
@pytest.mark.parametrize("request_coding", CODINGS, ids=["plain in", "gzip in", "deflate in"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_answers_are_those_of_a_session_of_our_own(
    running: Running,
    logits: NDArray[np.float32],
    binary: bool,
    request_coding: str | None,
    response_coding: str | None,
) -> None:
    assert logits.nbytes >= MIN_BYTES

    async def ask() -> list[Any]:
        async with asynchronous.InferenceServerClient(running.url) as client:
            call = client.infer
            options = {
                "outputs": [asynchronous.InferRequestedOutput("logits", binary_data=binary)],
                "request_compression_algorithm": request_coding,
                "response_compression_algorithm": response_coding,
            }
            sent = asked(VALUES, binary=binary)
            return list(await asyncio.gather(*[call("tiny", sent, request_id=str(n), **options) for n in range(4)]))

    for number, answer in enumerate(asyncio.run(ask())):
        response = answer.get_response()
        assert response["id"] == str(number)
        assert ("data" in response["outputs"][0]) is not binary
        np.testing.assert_allclose(answer.as_numpy("logits"), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_what_was_asked_to_be_compressed_is(running: Running, coding: str) -> None:
    """Asked without a client in between, which would hide it."""
    entry = {"name": "images", "shape": list(VALUES.shape), "datatype": "FP32", "data": VALUES.ravel().tolist()}
    body = json.dumps({"inputs": [entry]}).encode()
    head = f"POST /v2/models/tiny/infer HTTP/1.0\r\nContent-Length: {len(body)}\r\nAccept-Encoding: {coding}\r\n\r\n"
    with running.connect() as connection:
        connection.sendall(head.encode() + body)
        with connection.makefile("rb") as stream:
            answer_head = stream.read().partition(b"\r\n\r\n")[0].lower()
    assert f"content-encoding: {coding}".encode() in answer_head


def test_the_client_hears_why_it_is_refused(running: Running) -> None:
    async def ask() -> None:
        async with asynchronous.InferenceServerClient(running.url) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("tiny"))["name"] == "tiny"
            for name, values, status, words in (
                ("other", VALUES, "404", "no model 'other'"),
                ("tiny", images(65), "413", "65 images in one request; 1 to 64 are allowed"),
            ):
                with pytest.raises(triton.InferenceServerException, match=words) as caught:
                    await client.infer(name, asked(values, binary=True), request_compression_algorithm="gzip")
                assert caught.value.status() == status

    asyncio.run(ask())
