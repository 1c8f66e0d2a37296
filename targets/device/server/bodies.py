"""Limits on request bodies, and compression with gzip and deflate.

Decompression is limited: without that, a compressed body of 64 kB could fill two gigabytes. JSON elements are counted
before parsing, because as Python objects they take up to 40 times the size of the text.
"""

from __future__ import annotations

import zlib
from typing import Dict, Optional, Tuple

from targets.device.server.tensors import RequestError, shown

GZIP, DEFLATE, IDENTITY = "gzip", "deflate", "identity"
# zlib's window bits: 15 is zlib's own format, which HTTP calls deflate (RFC 9110, section 8.4.1.2); 16 more is gzip.
_WINDOW_BITS: Dict[str, int] = {GZIP: zlib.MAX_WBITS | 16, DEFLATE: zlib.MAX_WBITS}
# Smaller responses fit into one packet uncompressed.
MIN_BYTES = 1024
# Level 1: floats hardly compress better at higher levels.
LEVEL = 1


def content_encoding(header: Optional[str]) -> str:
    """Return the coding of a request's body; raise `RequestError` (415) if it is not supported."""
    name = (header or IDENTITY).strip().lower()
    if name not in (IDENTITY, *_WINDOW_BITS):
        message = f"Content-Encoding {shown(name)} is not supported; use gzip or deflate, or no compression"
        raise RequestError(message, status=415)
    return name


def decompress_body(body: bytes, encoding: str, limit: int) -> bytes:
    """Decompress the body; raise `RequestError` if it is invalid, or larger than `limit` bytes (413)."""
    if encoding == IDENTITY:
        return body
    inflating = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        plain = inflating.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(f"the body is not valid {encoding}: {error}") from None
    if len(plain) > limit:
        message = f"the decompressed body is larger than the limit of {limit} bytes (MAX_BODY_MIB)"
        raise RequestError(message, status=413)
    if not inflating.eof:
        raise RequestError(f"the body is not valid {encoding}: it is truncated")
    if inflating.unused_data:
        raise RequestError(f"{len(inflating.unused_data)} bytes follow the {encoding} body")
    return plain


def accepted_encoding(header: Optional[str]) -> str:
    """Return the response's coding by the request's Accept-Encoding; gzip if the client accepts both."""
    if not header:
        return IDENTITY
    weights = dict(map(_weight, header.lower().split(",")))
    for name in (GZIP, DEFLATE):
        if weights.get(name, 0.0) > 0:
            return name
    return IDENTITY


def compress_body(body: bytes, encoding: str) -> bytes:
    """Compress the body."""
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


# Allowance for elements besides data: names, parameters, identifiers.
SPARE_OBJECTS = 1_000
SPARE_LISTS = 1_000
SPARE_VALUES = 10_000


def check_amounts(text: bytes, input_shape: Tuple[int, int, int], max_batch: int) -> None:
    """Raise `RequestError` (413) if the JSON has more elements than `max_batch` images [C, H, W], nested or flat."""
    channels, height, width = input_shape
    # `pixels` is nested as [N, H, W, C], `images` as [N, C, H, W].
    lists = max_batch * (1 + max(height * (1 + width), channels * (1 + height)))
    values = max_batch * channels * height * width
    for mark, most, what in (
        (b"{", SPARE_OBJECTS, "objects"),
        (b"[", SPARE_LISTS + lists, "lists"),
        (b",", SPARE_VALUES + values, "values"),
    ):
        # Each takes at least one byte, so short texts need no counting.
        found = text.count(mark) if len(text) > most else 0
        if found > most:
            raise RequestError(
                f"the JSON has about {found} {what}; at most {most} are allowed for {max_batch} images (MAX_BATCH)",
                status=413,
            )
