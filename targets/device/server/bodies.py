"""Bodies that come or go compressed: gzip and deflate, never more than was allowed.

How much a request's JSON may hold, counted before it is read: as objects it takes up to 40 times its size.

A compressed body of 64 kB would else be enough to fill two gigabytes.
"""

from __future__ import annotations

import zlib
from typing import Dict, Optional, Tuple

from targets.device.server.tensors import RequestError, shown

GZIP, DEFLATE, IDENTITY = "gzip", "deflate", "identity"
# zlib's window bits: 15 is zlib's own format, which HTTP calls deflate (RFC 9110, section 8.4.1.2); 16 more is gzip.
_WINDOW_BITS: Dict[str, int] = {GZIP: zlib.MAX_WBITS | 16, DEFLATE: zlib.MAX_WBITS}
# Smaller answers fit into one packet as they are.
LEAST_BYTES = 1024
# Level 1: floats hardly shrink, however long one tries.
LEVEL = 1


def content_encoding(header: Optional[str]) -> str:
    """The coding of a request's body; raises `RequestError` (415) for one that is not known here."""
    name = (header or IDENTITY).strip().lower()
    if name not in (IDENTITY, *_WINDOW_BITS):
        message = f"Content-Encoding {shown(name)} is not supported; use gzip or deflate, or send the body as it is"
        raise RequestError(message, status=415)
    return name


def decompress_body(body: bytes, encoding: str, limit: int) -> bytes:
    """The body as it was; raises `RequestError` for one that is damaged, or larger than `limit` bytes (413)."""
    if encoding == IDENTITY:
        return body
    inflating = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        plain = inflating.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(f"the body is no valid {encoding}: {error}") from None
    if len(plain) > limit:
        message = f"the body is larger than the {limit} bytes that are taken (MAX_BODY_MIB) once decompressed"
        raise RequestError(message, status=413)
    if not inflating.eof:
        raise RequestError(f"the body is no valid {encoding}: it ends too early")
    if inflating.unused_data:
        raise RequestError(f"{len(inflating.unused_data)} bytes follow the {encoding} body")
    return plain


def accepted_encoding(header: Optional[str]) -> str:
    """What an answer may be compressed with by the request's Accept-Encoding: gzip where the client takes both."""
    if not header:
        return IDENTITY
    weights = dict(map(_weight, header.lower().split(",")))
    for name in (GZIP, DEFLATE):
        if weights.get(name, 0.0) > 0:
            return name
    return IDENTITY


def compress_body(body: bytes, encoding: str) -> bytes:
    """The body in the coding."""
    deflating = zlib.compressobj(LEVEL, zlib.DEFLATED, _WINDOW_BITS[encoding])
    return deflating.compress(body) + deflating.flush()


def _weight(part: str) -> Tuple[str, float]:
    name, _, parameter = part.partition(";")
    key, _, value = parameter.partition("=")
    if key.strip() != "q":
        return name.strip(), 1.0
    try:
        return name.strip(), float(value)
    except ValueError:
        return name.strip(), 0.0


# For what is no data: names, parameters, identifiers.
SPARE_OBJECTS = 1_000
SPARE_LISTS = 1_000
SPARE_VALUES = 10_000


def check_amounts(text: bytes, input_shape: Tuple[int, int, int], max_batch: int) -> None:
    """Raise `RequestError` (413) for JSON with more than `max_batch` images of [C, H, W] need, nested or flat."""
    channels, height, width = input_shape
    # `pixels` is nested as [N, H, W, C], `images` as [N, C, H, W].
    lists = max_batch * (1 + max(height * (1 + width), channels * (1 + height)))
    values = max_batch * channels * height * width
    for mark, most, what in (
        (b"{", SPARE_OBJECTS, "objects"),
        (b"[", SPARE_LISTS + lists, "lists"),
        (b",", SPARE_VALUES + values, "values"),
    ):
        # Each takes a byte at least: most texts need not be counted.
        found = text.count(mark) if len(text) > most else 0
        if found > most:
            raise RequestError(
                f"the JSON has about {found} {what}; at most {most} are taken for {max_batch} images (MAX_BATCH)",
                status=413,
            )
