"""Open Inference Protocol v2 over HTTP: parsing requests and rendering responses, with the binary tensor extension.

A body is JSON, or JSON followed by the tensors' raw bytes (little-endian, in the order of the JSON); in that case a
header gives the length of the JSON. Independent of HTTP servers and models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import orjson
from numpy.typing import NDArray

from targets.device.server.tensors import DATATYPES as DATATYPES
from targets.device.server.tensors import MAX_DIMENSIONS as MAX_DIMENSIONS
from targets.device.server.tensors import MAX_SIZE as MAX_SIZE
from targets.device.server.tensors import RequestError as RequestError
from targets.device.server.tensors import from_bytes, from_json, shown

LENGTH_HEADER = "Inference-Header-Content-Length"
BINARY_EXTENSION = "binary_tensor_data"
# The response repeats it.
MAX_ID_BYTES = 1024


@dataclass(frozen=True)
class RequestedOutput:
    name: str
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    id: Optional[str]
    inputs: Mapping[str, NDArray[Any]]
    outputs: Optional[Tuple[RequestedOutput, ...]]
    """None: all outputs."""
    binary: bool
    """Whether outputs are binary unless the request specifies it per output."""


def parse_request(
    body: bytes, json_length: Optional[str] = None, check: Optional[Callable[[bytes], None]] = None
) -> InferRequest:
    """Parse a request; `json_length` is the value of the length header, if present.

    `check` receives the JSON text before parsing, and may raise `RequestError`.
    """
    header, tail = _split(body, None if json_length is None else byte_count(LENGTH_HEADER, json_length))
    if check is not None:
        check(header)
    raw = _object(header)
    request_id = raw.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError(f"'id' must be a string, not {shown(request_id)}")
    check_id(request_id or "")
    binary = flag(_parameters(raw, "the request"), "binary_data_output")
    return InferRequest(
        id=request_id,
        inputs=_inputs(raw.get("inputs"), tail),
        outputs=requested_outputs(raw.get("outputs"), binary),
        binary=binary,
    )


def check_id(text: str) -> None:
    """Raise `RequestError` if the ID is too long."""
    # Characters first, so that megabytes are not encoded only to be counted.
    if len(text) > MAX_ID_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise RequestError(f"'id' is longer than {MAX_ID_BYTES} bytes, the maximum")


def render_response(
    *,
    model_name: str,
    model_version: str,
    request_id: Optional[str],
    outputs: Sequence[Tuple[str, NDArray[np.float32], bool]],
) -> Tuple[bytes, Optional[int]]:
    """Return the body, and the JSON's length if binary tensors follow; an output is (name, values, binary)."""
    described: List[Dict[str, Any]] = []
    tail: List[bytes] = []
    for name, values, binary in outputs:
        entry: Dict[str, Any] = {"name": name, "shape": list(values.shape), "datatype": "FP32"}
        if binary:
            tail.append(np.ascontiguousarray(values, DATATYPES["FP32"]).tobytes())
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            if not np.isfinite(values).all():
                # JSON cannot represent them, and clients do not expect null.
                raise ValueError("the model's output contains values that are not finite")
            entry["data"] = np.ascontiguousarray(values).ravel()
        described.append(entry)
    raw: Dict[str, Any] = {"model_name": model_name, "model_version": model_version, "outputs": described}
    if request_id is not None:
        raw["id"] = request_id
    header = orjson.dumps(raw, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([header, *tail]), len(header) if tail else None


def byte_count(header: str, text: str) -> int:
    """Parse the number of bytes in a header; raise `RequestError`."""
    # isdecimal() accepts digits of other scripts, too.
    if not (text.isascii() and text.isdecimal()) or len(text) > 12:
        raise RequestError(f"{header} must be a number of bytes, not {shown(text)}")
    return int(text)


def _split(body: bytes, length: Optional[int]) -> Tuple[bytes, memoryview]:
    if length is None:
        return body, memoryview(b"")
    if length > len(body):
        raise RequestError(f"{LENGTH_HEADER} is {length}, but the body has {len(body)} bytes")
    return body[:length], memoryview(body)[length:]


def _object(header: bytes) -> Dict[str, Any]:
    try:
        raw = orjson.loads(header)
    except ValueError as error:
        raise RequestError(f"the body is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise RequestError(f"the body must be a JSON object, not {shown(raw)}")
    return raw


def _inputs(raw: Any, tail: memoryview) -> Dict[str, NDArray[Any]]:
    found: Dict[str, NDArray[Any]] = {}
    for entry in _objects(raw, "inputs"):
        name = _name(entry, "an input")
        if name in found:
            raise RequestError(f"the input {shown(name)} is given twice")
        shape, dtype = shape_of(entry, name), dtype_of(entry, name)
        size = _parameters(entry, f"the input {shown(name)}").get("binary_data_size")
        if size is None:
            found[name] = from_json(entry, name, shape, dtype)
        else:
            if "data" in entry:
                raise RequestError(f"the input {shown(name)} has both 'data' and 'binary_data_size'")
            found[name] = from_bytes(tail, name, shape, dtype, size)
            tail = tail[size:]
    if len(tail):
        raise RequestError(f"{len(tail)} bytes follow the last binary tensor")
    return found


def shape_of(entry: Mapping[str, Any], name: str) -> Tuple[int, ...]:
    """Return the shape in an input's description; raise `RequestError`."""
    shape = entry.get("shape")
    if not isinstance(shape, list):
        raise RequestError(f"the shape of the input {shown(name)} must be a list of sizes, not {shown(shape)}")
    if len(shape) > MAX_DIMENSIONS:
        raise RequestError(
            f"the input {shown(name)} has {len(shape)} dimensions; at most {MAX_DIMENSIONS} are supported"
        )
    for size in shape:
        # A bool is an int for isinstance().
        if type(size) is not int or not 1 <= size <= MAX_SIZE:
            raise RequestError(
                f"a size in the shape of the input {shown(name)} must be from 1 to {MAX_SIZE}, not {shown(size)}"
            )
    return tuple(shape)


def dtype_of(entry: Mapping[str, Any], name: str) -> np.dtype[Any]:
    """Return the dtype in an input's description; raise `RequestError`."""
    datatype = entry.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        known = " or ".join(DATATYPES)
        raise RequestError(f"the datatype of the input {shown(name)} must be {known}, not {shown(datatype)}")
    return DATATYPES[datatype]


def requested_outputs(raw: Any, binary: bool) -> Optional[Tuple[RequestedOutput, ...]]:
    """Return the requested outputs, with `binary` as the default of each; raise `RequestError`."""
    if raw is None or raw == []:
        return None
    found: Dict[str, RequestedOutput] = {}
    for entry in _objects(raw, "outputs"):
        name = _name(entry, "an output")
        parameters = _parameters(entry, f"the output {shown(name)}")
        if "classification" in parameters:
            raise RequestError("the parameter 'classification' is not supported; request the logits")
        if name in found:
            raise RequestError(f"the output {shown(name)} is requested twice")
        found[name] = RequestedOutput(name, flag(parameters, "binary_data", binary))
    return tuple(found.values())


def _objects(raw: Any, what: str) -> List[Dict[str, Any]]:
    if not isinstance(raw, list) or not raw or not all(isinstance(entry, dict) for entry in raw):
        raise RequestError(f"'{what}' must be a list of one or more objects, not {shown(raw)}")
    return raw


def _name(entry: Mapping[str, Any], what: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise RequestError(f"{what} needs a 'name'")
    return name


def _parameters(raw: Mapping[str, Any], what: str) -> Dict[str, Any]:
    parameters = raw.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(f"the parameters of {what} must be an object, not {shown(parameters)}")
    return parameters


def flag(parameters: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """Return the boolean parameter `name`; raise `RequestError` if it is not a bool."""
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(f"the parameter '{name}' must be true or false, not {shown(value)}")
    return value
