"""Requests that are wrong in one way each, with a part of the message that says so."""

import json

from device_server import binary_request, images, json_request

from targets.device.server.protocol import LENGTH_HEADER

ONE = images(1)
HEADER, TENSOR = binary_request(ONE)
GOOD = json.dumps(json_request(ONE)).encode()
Headers = dict[str, str]


def body(request: object) -> bytes:
    return json.dumps(request).encode()


def one(**changes: object) -> bytes:
    """The request for one image, with `changes` to its input."""
    return body(json_request(ONE, **changes))


def with_output(*outputs: object, **parameters: object) -> bytes:
    return body({**json_request(ONE), "outputs": list(outputs), "parameters": parameters})


def raw_data(text: str) -> bytes:
    """The request with one of its numbers replaced by what Python's json would not write."""
    return one(data=["HERE"] + [0] * 191).replace(b'"HERE"', text.encode())


def binary(size: object = len(TENSOR), header: bytes | None = None, **changes: object) -> tuple[bytes, Headers]:
    """A binary request, with `changes` to its input; the length header is `header` where that is given."""
    written, tensor = binary_request(ONE, parameters={"binary_data_size": size}, **changes)
    return written + tensor, {LENGTH_HEADER: header.decode() if header is not None else str(len(written))}


def after_json(tail: bytes) -> tuple[bytes, Headers]:
    return HEADER + tail, {LENGTH_HEADER: str(len(HEADER))}


MALFORMED: list[tuple[str, bytes | tuple[bytes, Headers], str]] = [
    ("no body", b"", "not valid JSON"),
    ("truncated", GOOD[:-7], "not valid JSON"),
    ("bad UTF-8", b'{"id": "\xff\xfe"}', "not valid JSON"),
    ("UTF-16 cut in half", GOOD.decode().encode("utf-16")[:-1], "not valid JSON"),
    ("zero bytes", b"\0" * 100, "not valid JSON"),
    ("two documents", GOOD + GOOD, "not valid JSON"),
    ("arrays nested deeply", b"[" * 1_200, "not valid JSON"),
    ("objects nested deeply", b'{"a":' * 900, "not valid JSON"),
    ("an integer of 100,000 digits", raw_data("9" * 100_000), "not valid JSON"),
    ("a list", b"[]", "must be a JSON object, not list"),
    ("null", b"null", "must be a JSON object, not None"),
    ("a number for an id", body({**json_request(ONE), "id": 1}), "'id' must be a string"),
    ("no inputs", b"{}", "'inputs' must be a list of one or more objects, not None"),
    ("an empty list of inputs", b'{"inputs": []}', "'inputs' must be a list"),
    ("inputs as an object", b'{"inputs": {"images": 1}}', "'inputs' must be a list"),
    ("null as an input", b'{"inputs": [null]}', "'inputs' must be a list"),
    ("an input twice", body({"inputs": json_request(ONE)["inputs"] * 2}), "'images' is given twice"),
    (
        "one input more",
        body({"inputs": [*json_request(ONE)["inputs"], *json_request(ONE, name="x")["inputs"]]}),
        "one",
    ),
    (
        "an unknown input",
        one(name="photo"),
        "no input 'photo'; expected exactly one, 'images', 'pixels' or 'encoded'",
    ),
    ("floats for pixels", one(name="pixels"), "'pixels' must have the datatype UINT8, not FP32"),
    ("floats for files", one(name="encoded"), "'encoded' must have the datatype BYTES, not FP32"),
    ("a nameless input", one(name=None), "an input needs a 'name'"),
    ("parameters as a list", one(parameters=[]), "must be an object"),
    ("another datatype", one(datatype="INT8"), "must be FP32 or UINT8 or BYTES"),
    ("bytes for images", one(datatype="UINT8", data=[0] * 192), "'images' must have the datatype FP32, not UINT8"),
    ("fractions as UINT8", one(datatype="UINT8"), "not an array of whole numbers"),
    ("256 as UINT8", one(datatype="UINT8", data=[256] + [0] * 191), "must be from 0 to 255"),
    ("-1 as UINT8", one(datatype="UINT8", data=[-1] + [0] * 191), "must be from 0 to 255"),
    ("numbers for base64", one(datatype="BYTES"), "not an array of base64 strings"),
    ("no base64", one(name="encoded", datatype="BYTES", shape=[1], data=["*"]), "element 0 of the input"),
    ("a datatype in lower case", one(datatype="fp32"), "must be FP32"),
    ("a list for a datatype", one(datatype=["FP32"]), "must be FP32"),
    ("no shape", one(shape=None), "must be a list of sizes"),
    ("a string for a shape", one(shape="1,3,8,8"), "must be a list of sizes"),
    ("a negative dimension", one(shape=[-1, 3, 8, 8]), "from 1 to"),
    ("two negative dimensions", one(shape=[-1, -3, 8, 8]), "from 1 to"),
    ("a fraction for a dimension", one(shape=[1.0, 3, 8, 8]), "from 1 to"),
    ("true for a dimension", one(shape=[True, 3, 8, 8]), "from 1 to"),
    ("no images", one(shape=[0, 3, 8, 8], data=[]), "from 1 to"),
    ("none of a huge shape", one(shape=[0, 2**40, 2**40, 2**70], data=[]), "from 1 to"),
    ("a dimension of 4,000 digits", one(shape=[10**4000] * 8), "not valid JSON"),
    ("a huge shape", one(shape=[2**31 - 1] * 8), "needs"),
    ("many dimensions", one(shape=[1] * 5_000), "5000 dimensions; at most"),
    ("channels last", one(shape=[1, 8, 8, 3]), "must have the shape [N, 3, 8, 8], not [1, 8, 8, 3]"),
    ("a flat shape", one(shape=[192]), "must have the shape"),
    ("no shape at all", one(shape=[], data=[1]), "must have the shape"),
    ("a value too few", one(data=[0] * 191), "needs 192 values; it has 191"),
    ("a value too many", one(data=[0] * 193), "needs 192 values; it has 193"),
    ("no data", body({"inputs": [{"name": "images", "shape": [1], "datatype": "FP32"}]}), "neither"),
    ("null for data", one(data=None), "not an array of numbers"),
    ("strings for data", one(data=["0"] * 192), "not an array of numbers"),
    ("NaN", raw_data("NaN"), "not valid JSON"),
    ("Infinity", raw_data("-Infinity"), "not valid JSON"),
    ("a number beyond float64", raw_data("1e999"), "not valid JSON"),
    ("a number beyond float32", raw_data("1e39"), "not finite"),
    ("an integer beyond float64", raw_data("9" * 400), "not valid JSON"),
    ("an unknown output", with_output({"name": "scores"}), "no output 'scores'"),
    ("an unknown output behind ours", with_output({"name": "logits"}, {"name": "scores"}), "no output 'scores'"),
    ("an output twice", with_output({"name": "logits"}, {"name": "logits"}), "requested twice"),
    ("an output as a string", with_output("logits"), "'outputs' must be a list"),
    ("classification", with_output({"name": "logits", "parameters": {"classification": 3}}), "not supported"),
    ("a word for a flag", with_output({"name": "logits", "parameters": {"binary_data": "yes"}}), "true or false"),
    ("a number for a flag", with_output(binary_data_output=1), "true or false"),
    ("a length beyond the body", binary(header=b"999999"), "but the body has"),
    ("a length too short", binary(header=b"10"), "not valid JSON"),
    ("a length of zero", binary(header=b"0"), "not valid JSON"),
    ("a negative length", binary(header=b"-1"), "must be a number of bytes"),
    ("a word for a length", binary(header=b"many"), "must be a number of bytes"),
    ("a length of 5,000 digits", binary(header=b"9" * 5000), "must be a number of bytes"),
    ("no length with binary data", HEADER + TENSOR, "not valid JSON"),
    ("a binary size beyond the body", binary(size=772), "only 768 are left"),
    ("a binary size of 4,000 digits", binary(size=10**4000), "not valid JSON"),
    ("a binary size too small", binary(size=764), "needs 192 values; it has 191"),
    ("a binary size of half a value", binary(size=766), "not a multiple of 4"),
    ("a negative binary size", binary(size=-4), "must be a number of bytes"),
    ("true for a binary size", binary(size=True), "must be a number of bytes"),
    ("a string for a binary size", binary(size="768"), "must be a number of bytes"),
    ("data and a binary size", binary(data=[0] * 192), "both"),
    ("bytes behind the last tensor", after_json(TENSOR + b"x"), "1 bytes follow the last binary tensor"),
    ("binary NaN", after_json(b"\0\0\xc0\x7f" + TENSOR[4:]), "not finite"),
    ("binary infinity", after_json(TENSOR[:-4] + b"\0\0\x80\x7f"), "not finite"),
]
