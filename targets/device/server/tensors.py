"""Values of a request's inputs, from JSON or raw bytes; allocates only for received data, not for announced sizes.

In JSON an element of BYTES is base64 text (the protocol does not define binary values there); after the
JSON it is a little-endian uint32 length, then the bytes.
"""

from __future__ import annotations

import base64
import struct
from itertools import chain
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

# An array of BYTES contains Python bytes objects.
DATATYPES: Dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1"), "BYTES": np.dtype("O")}
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
# The client's message for a bug in the server.
BUG = "internal error; the server's log has the details"
MAX_DIMENSIONS = 8
# Limits the product of a shape, which could otherwise have thousands of digits.
MAX_SIZE = 2**31 - 1
# Limit on elements of BYTES, each of which is an object; equals the largest MAX_BATCH.
MAX_ELEMENTS = 4096


class RequestError(ValueError):
    """The request cannot be answered; `status` is the HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def from_json(entry: Mapping[str, Any], name: str, shape: Tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the input's `data`, flat or nested like its shape."""
    if "data" not in entry:
        raise RequestError(f"the input {shown(name)} has neither 'data' nor the parameter 'binary_data_size'")
    kind, known = _ELEMENTS[NAMES[dtype]]
    sizes, values = _flatten(entry["data"])
    # NumPy would convert "1" and true to 1.
    if sizes is None or not set(map(type, values)) <= known:
        raise RequestError(f"the data of the input {shown(name)} is not an array of {kind}, all nested equally deep")
    _check_count(len(values), name, shape)
    if len(sizes) > 1 and sizes != shape:
        raise RequestError(
            f"the data of the input {shown(name)} is nested as {list(sizes)}, but its shape is {list(shape)}"
        )
    return _convert(values, name, dtype).reshape(shape)


def _flatten(data: object) -> Tuple[Optional[Tuple[int, ...]], List[Any]]:
    """Return sizes and values of lists nested equally deep; the sizes are None if they are not."""
    if type(data) is not list:
        return None, []
    sizes = [len(data)]
    values: List[Any] = data
    while values and type(values[0]) is list:
        # Checked before lengths, because strings have lengths, too.
        if len(sizes) == MAX_DIMENSIONS or set(map(type, values)) != {list}:
            return None, []
        lengths = set(map(len, values))
        if len(lengths) != 1:
            return None, []
        sizes.append(lengths.pop())
        values = list(chain.from_iterable(values))
    return tuple(sizes), values


def from_bytes(
    tail: memoryview, name: str, shape: Tuple[int, ...], dtype: np.dtype[Any], size: object
) -> NDArray[Any]:
    """Return an array of the first `size` bytes of `tail`."""
    if type(size) is not int or size < 0:
        raise RequestError(f"binary_data_size of the input {shown(name)} must be a number of bytes")
    if size > len(tail):
        raise RequestError(f"the input {shown(name)} has {shown(size)} binary bytes, but only {len(tail)} are left")
    if dtype.hasobject:
        return _elements(tail[:size], name, shape)
    if size % dtype.itemsize:
        raise RequestError(f"the input {shown(name)} has {size} binary bytes, not a multiple of {dtype.itemsize}")
    _check_count(size // dtype.itemsize, name, shape)
    # The JSON before it may have any length, but kernels may need aligned addresses.
    return np.require(np.frombuffer(tail[:size], dtype), requirements=["ALIGNED"]).reshape(shape)


def from_values(values: Sequence[Any], name: str, shape: Tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array of typed, flat numbers or bytes."""
    if dtype.hasobject:
        _check_elements(len(values), name)
    _check_count(len(values), name, shape)
    if dtype.hasobject:
        return _array(list(values)).reshape(shape)
    # In the values' own type first: a smaller one would wrap around.
    wide = np.fromiter(values, np.uint32 if dtype.kind == "u" else dtype, len(values))
    _check_range(wide, name, dtype)
    return wide.astype(dtype, copy=False).reshape(shape)


def shown(value: object) -> str:
    """Return a client's value for a message, truncated."""
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


_ELEMENTS: Dict[str, Tuple[str, "set[type]"]] = {
    "FP32": ("numbers", {int, float}),
    "UINT8": ("whole numbers", {int}),
    "BYTES": ("base64 strings", {str}),
}


def _convert(values: List[Any], name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.hasobject:
        _check_elements(len(values), name)
        return _array([_decode(text, name, index) for index, text in enumerate(values)])
    wide = np.array(values, np.float64)
    _check_range(wide, name, dtype)
    with np.errstate(over="ignore"):
        return wide.astype(dtype)


def _decode(text: str, name: str, index: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise RequestError(f"element {index} of the input {shown(name)} is not base64 text: {error}") from None


def _elements(data: memoryview, name: str, shape: Tuple[int, ...]) -> NDArray[Any]:
    """Return the elements of BYTES, each stored as length and bytes."""
    wanted = _count(shape)
    _check_elements(wanted, name)
    found: List[bytes] = []
    start = 0
    while start < len(data) and len(found) <= wanted:
        left = len(data) - start - 4
        if left < 0:
            raise RequestError(f"the input {shown(name)} ends within the length of element {len(found)}")
        (length,) = struct.unpack_from("<I", data, start)
        if length > left:
            raise RequestError(
                f"element {len(found)} of the input {shown(name)} announces {length} bytes, but {left} are left"
            )
        found.append(bytes(data[start + 4 : start + 4 + length]))
        start += 4 + length
    if len(found) > wanted:
        raise RequestError(f"the input {shown(name)} of shape {list(shape)} needs {wanted} values; it has more")
    _check_count(len(found), name, shape)
    return _array(found).reshape(shape)


def _array(elements: List[bytes]) -> NDArray[Any]:
    # np.array() would use a fixed-size type, which drops trailing zero bytes.
    made = np.empty(len(elements), object)
    made[:] = elements
    return made


def _check_range(values: NDArray[Any], name: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind == "u" and not (values.min() >= 0 and values.max() <= 255):
        raise RequestError(f"the data of the input {shown(name)} must be from 0 to 255 for UINT8")


def _check_elements(count: int, name: str) -> None:
    if count > MAX_ELEMENTS:
        raise RequestError(
            f"the input {shown(name)} has {count} elements of BYTES; at most {MAX_ELEMENTS} are allowed"
        )


def _check_count(found: int, name: str, shape: Tuple[int, ...]) -> None:
    wanted = _count(shape)
    if found != wanted:
        raise RequestError(f"the input {shown(name)} of shape {list(shape)} needs {wanted} values; it has {found}")


def _count(shape: Tuple[int, ...]) -> int:
    wanted = 1
    for size in shape:
        wanted *= size
    return wanted
