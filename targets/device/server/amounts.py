"""How much a request's JSON may hold, counted before it is read: as objects it takes up to 40 times its size.

A compressed body of 64 kB would else be enough to fill two gigabytes.
"""

from __future__ import annotations

from typing import Tuple

from targets.device.server.tensors import RequestError

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
