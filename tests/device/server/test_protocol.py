import json
from typing import Any

import numpy as np
import pytest
from device_server import binary_request, images, json_request

from targets.device.server.protocol import (
    MAX_DIMENSIONS,
    MAX_SIZE,
    RequestedOutput,
    RequestError,
    byte_count,
    parse_request,
    render_response,
)


def refusal(request: object) -> str:
    """The message with which a request is refused."""
    with pytest.raises(RequestError) as caught:
        parse_request(json.dumps(request).encode())
    assert caught.value.status == 400
    return str(caught.value)


def test_json_data_may_be_flat_or_nested_like_its_shape() -> None:
    values = images(2)
    for data in (values.ravel().tolist(), values.tolist()):
        request = parse_request(json.dumps(json_request(values, data=data)).encode())
        np.testing.assert_array_equal(request.inputs["images"], values)
        assert request.inputs["images"].dtype == np.float32


def test_data_nested_in_another_order_is_not_taken_for_the_shape() -> None:
    values = images(1)
    channels_last = values.transpose(0, 2, 3, 1)
    message = refusal(json_request(values, data=channels_last.tolist()))
    assert "nested as [1, 8, 8, 3], but its shape is [1, 3, 8, 8]" in message


def test_integers_are_numbers_too() -> None:
    request = parse_request(json.dumps(json_request(images(1), data=[0, 2**70, -1] + [0.5] * 189)).encode())
    np.testing.assert_array_equal(request.inputs["images"].ravel()[:4], np.array([0, 2.0**70, -1, 0.5], np.float32))


@pytest.mark.parametrize("padding", range(4))
def test_binary_data_is_read_from_behind_json_of_any_length(padding: int) -> None:
    values = images(3)
    header, tensor = binary_request(values)
    header += b" " * padding
    array = parse_request(header + tensor, str(len(header))).inputs["images"]
    np.testing.assert_array_equal(array, values)
    assert array.flags.aligned


def test_several_binary_inputs_follow_each_other() -> None:
    first, second = images(1), images(2, seed=1)
    parts = [binary_request(first, name="a"), binary_request(second, name="b")]
    header = json.dumps({"inputs": [json.loads(part[0])["inputs"][0] for part in parts]}).encode()
    request = parse_request(header + parts[0][1] + parts[1][1], str(len(header)))
    np.testing.assert_array_equal(request.inputs["a"], first)
    np.testing.assert_array_equal(request.inputs["b"], second)


@pytest.mark.parametrize(
    ("added", "binary", "outputs"),
    [
        pytest.param({}, False, None, id="nothing said"),
        pytest.param({"outputs": []}, False, None, id="none named"),
        pytest.param({"parameters": {"binary_data_output": True}}, True, None, id="all binary"),
        pytest.param({"outputs": [{"name": "x"}]}, False, (RequestedOutput("x", False),), id="named"),
        pytest.param(
            {"outputs": [{"name": "x", "parameters": {"binary_data": True}}, {"name": "y"}]},
            False,
            (RequestedOutput("x", True), RequestedOutput("y", False)),
            id="one binary",
        ),
        pytest.param(
            {"parameters": {"binary_data_output": True}, "outputs": [{"name": "x"}]},
            True,
            (RequestedOutput("x", True),),
            id="binary unless said otherwise",
        ),
    ],
)
def test_outputs_are_written_as_asked(
    added: dict[str, Any], binary: bool, outputs: tuple[RequestedOutput, ...] | None
) -> None:
    request = parse_request(json.dumps({**json_request(images(1)), **added}).encode())
    assert request.binary is binary
    assert request.outputs == outputs


def test_the_id_is_kept_and_must_be_a_string() -> None:
    assert parse_request(json.dumps({**json_request(images(1)), "id": "ü 7"}).encode()).id == "ü 7"
    assert parse_request(json.dumps(json_request(images(1))).encode()).id is None
    assert refusal({**json_request(images(1)), "id": 7}) == "'id' must be a string, not 7"


def test_messages_show_the_value_but_never_all_of_a_long_one() -> None:
    assert "must be FP32 or UINT8 or BYTES, not 'INT8'" in refusal(json_request(images(1), datatype="INT8"))
    assert "must be FP32 or UINT8 or BYTES, not None" in refusal(json_request(images(1), datatype=None))
    assert "not -1" in refusal(json_request(images(1), shape=[-1, 3, 8, 8]))
    for changes in ({"datatype": "x" * 10**6}, {"shape": [10**4000]}, {"name": "n" * 10**6, "data": 1}):
        assert len(refusal(json_request(images(1), **changes))) < 300


def test_shapes_have_limits() -> None:
    assert f"from 1 to {MAX_SIZE}, not 0" in refusal(json_request(images(1), shape=[0, 2**40, 2**40], data=[]))
    assert f"at most {MAX_DIMENSIONS}" in refusal(json_request(images(1), shape=[1] * (MAX_DIMENSIONS + 1)))
    wanted = MAX_SIZE**MAX_DIMENSIONS
    assert f"needs {wanted} values; it has 192" in refusal(json_request(images(1), shape=[MAX_SIZE] * MAX_DIMENSIONS))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(["1"] * 192, id="strings"),
        pytest.param([True] * 192, id="true"),
        pytest.param([None] * 192, id="null"),
        pytest.param([[1, 2], [3]], id="ragged"),
        pytest.param({"a": 1}, id="object"),
        pytest.param("1", id="string"),
        # 10 GB if NumPy gave each of them the size of the longest.
        pytest.param(["x" * 250_000] + [""] * 10_000, id="one long string"),
    ],
)
def test_only_numbers_are_data(data: object) -> None:
    assert "is not an array of numbers" in refusal(json_request(images(1), data=data))


@pytest.mark.parametrize("depth", [9, 33, 63, 64, 65, 200])
def test_data_nested_too_deep_is_refused(depth: int) -> None:
    data: Any = 1
    for _ in range(depth):
        data = [data]
    assert "is not an array of numbers" in refusal(json_request(images(1), shape=[1], data=data))


def test_many_outputs_are_read_in_one_pass() -> None:
    """Comparing each with all before it would take minutes."""
    outputs = [{"name": str(index)} for index in range(100_000)]
    request = parse_request(json.dumps({**json_request(images(1)), "outputs": outputs}).encode())
    assert request.outputs is not None
    assert len(request.outputs) == 100_000


@pytest.mark.parametrize("text", ["", "-1", "+1", "1_0", "1.0", " 1", "0x1", "²", "٣", "9" * 13, "abc"])
def test_a_length_is_plain_digits(text: str) -> None:
    with pytest.raises(RequestError, match="The-Header must be a number of bytes"):
        byte_count("The-Header", text)
    assert byte_count("The-Header", "0012") == 12


def test_a_json_answer_has_the_values() -> None:
    logits = np.array([[0.1, -2], [3e-8, 4e7]], np.float32)
    body, length = render_response(
        model_name="m", model_version="2", request_id="x", outputs=[("logits", logits, False)]
    )
    assert length is None
    raw = json.loads(body)
    (output,) = raw.pop("outputs")
    assert raw == {"model_name": "m", "model_version": "2", "id": "x"}
    np.testing.assert_array_equal(np.array(output.pop("data"), np.float32).reshape(2, 2), logits)
    assert output == {"name": "logits", "shape": [2, 2], "datatype": "FP32"}


def test_a_binary_answer_has_the_bytes_behind_its_json() -> None:
    logits = np.array([[1, 2, 3], [4, 5, 6]], np.float32, order="F")
    outputs = [("a", logits, True), ("b", logits[:1], False), ("c", logits[1:], True)]
    body, length = render_response(model_name="m", model_version="2", request_id=None, outputs=outputs)
    raw = json.loads(body[:length])
    assert "id" not in raw
    assert [output.get("parameters") for output in raw["outputs"]] == [
        {"binary_data_size": 24},
        None,
        {"binary_data_size": 12},
    ]
    assert "data" not in raw["outputs"][0]
    np.testing.assert_array_equal(np.frombuffer(body[length:], "<f4"), [1, 2, 3, 4, 5, 6, 4, 5, 6])
