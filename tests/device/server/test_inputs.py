"""The three inputs of the served model, by NVIDIA's client and as bytes; files that are none, and bombs."""

import base64
import json
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
import tritonclient.http as triton
from device_server import INFER, Running, answering, images
from numpy.typing import NDArray
from request_images import as_objects, photo
from tiny_artifact import PREPROCESSING
from tiny_onnx import SIDE
from tiny_package import TinyPackage, colorful, png
from tiny_served import running, tiny

from targets.device.model.image_files import decode
from targets.device.model.preprocess import normalize, preprocess
from targets.device.open_session import open_session
from targets.device.server.protocol import LENGTH_HEADER

__all__ = ["running", "tiny"]
PIXELS = colorful(3, seed=7)


@pytest.fixture(scope="module")
def client(tiny: TinyPackage) -> Iterator[httpx2.Client]:
    with answering(tiny.folder, max_batch=4, max_image_pixels=1 << 20) as made:
        yield made


def expected(tiny: TinyPackage, values: NDArray[np.float32]) -> NDArray[np.float32]:
    with open_session(tiny.folder, tiny.manifest) as session:
        return session.infer(values)


def asked(name: str, values: NDArray[Any], datatype: str, *, binary: bool) -> list[Any]:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return [made]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_pixels_are_normalized_as_in_training(running: Running, tiny: TinyPackage, binary: bool) -> None:
    with triton.InferenceServerClient(running.url) as client:
        logits = client.infer("tiny", asked("pixels", PIXELS, "UINT8", binary=binary)).as_numpy("logits")
    np.testing.assert_allclose(logits, expected(tiny, normalize(PIXELS, PREPROCESSING)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_files_are_decoded_and_preprocessed_as_in_training(running: Running, tiny: TinyPackage, binary: bool) -> None:
    files = [photo("JPEG", 1), photo("PNG", 2), png(PIXELS[0])]
    inputs = np.stack([preprocess(decode(file), PREPROCESSING) for file in files])
    sent = files if binary else [base64.b64encode(file) for file in files]
    with triton.InferenceServerClient(running.url) as client:
        logits = client.infer("tiny", asked("encoded", as_objects(sent), "BYTES", binary=binary)).as_numpy("logits")
    np.testing.assert_allclose(logits, expected(tiny, inputs), rtol=0, atol=1e-5)


def encoded(*files: bytes, count: int | None = None) -> dict[str, Any]:
    """The JSON request for these files."""
    data = [base64.b64encode(file).decode() for file in files]
    shape = [len(files) if count is None else count]
    return {"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": shape, "data": data}]}


def behind_json(tail: bytes, count: int) -> tuple[bytes, dict[str, str]]:
    """The request for BYTES that are sent as they are."""
    entry = {"name": "encoded", "datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": len(tail)}}
    header = json.dumps({"inputs": [entry]}).encode()
    return header + tail, {LENGTH_HEADER: str(len(header))}


def refusal(response: Any) -> str:
    assert response.status_code == 400
    message: str = response.json()["error"]
    return message


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that states this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        pytest.param(b"", "the file is empty (0 bytes)", id="empty"),
        pytest.param(b"hello", "not an image of a supported format", id="text"),
        pytest.param(photo("JPEG", 1)[:300], "header is damaged", id="cut header"),
        pytest.param(photo("PNG", 1)[:-900], "the PNG file is truncated", id="cut"),
        pytest.param(bomb(1025, 1024), "too many pixels (1025 x 1024; at most 1048576)", id="just too large"),
        pytest.param(bomb(60_000, 60_000), "too many pixels", id="bomb"),
        pytest.param(bomb(2**31 - 1, 2**31 - 1), "at most 1048576", id="largest"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(client: httpx2.Client, file: bytes, reason: str) -> None:
    message = refusal(client.post(INFER, json=encoded(photo("PNG", 3), file)))
    assert message.startswith("image 1 of 'encoded' cannot be used: ")
    assert reason in message


def test_a_bomb_is_refused_before_anything_is_allocated(client: httpx2.Client) -> None:
    request = encoded(bomb(8000, 8000))
    client.post(INFER, json=request)
    tracemalloc.start()
    assert "too many pixels" in refusal(client.post(INFER, json=request))
    entry = {"name": "encoded", "datatype": "BYTES", "shape": [5000], "data": [""] * 5000}
    assert "at most 4096" in refusal(client.post(INFER, json={"inputs": [entry]}))
    body, headers = behind_json(bytes(4), 2**31 - 1)
    assert "at most 4096" in refusal(client.post(INFER, content=body, headers=headers))
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_more_files_than_a_batch_are_refused_undecoded(client: httpx2.Client) -> None:
    response = client.post(INFER, json=encoded(*[b"no image"] * 5))
    assert (response.status_code, "5 images in one request; 1 to 4" in response.json()["error"]) == (413, True)


@pytest.mark.parametrize(
    ("tail", "count", "message"),
    [
        pytest.param(
            b"\x05\0\0\0abc", 1, "element 0 of the input 'encoded' announces 5 bytes, but 3 are left", id="cut"
        ),
        pytest.param(b"\xff\xff\xff\xffabc", 1, "announces 4294967295 bytes, but 3", id="huge"),
        pytest.param(b"\0\0\0\0\0\0", 2, "ends within the length of element 1", id="half a length"),
        pytest.param(b"\0\0\0\0", 2, "needs 2 values; it has 1", id="too few"),
        pytest.param(b"\0\0\0\0" * 3, 2, "needs 2 values; it has more", id="too many"),
        pytest.param(b"", 1, "needs 1 values; it has 0", id="none"),
    ],
)
def test_lengths_that_lie_are_refused(client: httpx2.Client, tail: bytes, count: int, message: str) -> None:
    body, headers = behind_json(tail, count)
    assert message in refusal(client.post(INFER, content=body, headers=headers))


def test_zero_bytes_at_the_end_of_a_file_are_kept(client: httpx2.Client) -> None:
    file = photo("JPEG", 4) + b"\0\0"
    body, headers = behind_json(struct.pack("<I", len(file)) + file, 1)
    assert client.post(INFER, content=body, headers=headers).status_code == 200


def test_two_inputs_at_once_are_one_too_many(client: httpx2.Client) -> None:
    values = images(1)
    both = encoded(photo("PNG", 1))
    both["inputs"] += [
        {"name": "images", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE], "data": values.ravel().tolist()}
    ]
    message = refusal(client.post(INFER, json=both))
    assert (
        message == "expected exactly one input, 'images', 'pixels' or 'encoded'; the request has 'encoded', 'images'"
    )


def test_pixels_of_another_size_are_refused(client: httpx2.Client) -> None:
    request = {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 9, 3], "data": [0] * 216}]}
    assert "'pixels' must have the shape [N, 8, 8, 3], not [1, 8, 9, 3]" in refusal(client.post(INFER, json=request))
