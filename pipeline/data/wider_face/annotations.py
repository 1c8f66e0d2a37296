"""The boxes of WIDER FACE: `wider_face_{train,val}_bbx_gt.txt`, with their irregularities.

Yang, S. et al. (2016): WIDER FACE: A Face Detection Benchmark. Repeated for each photo: its path below
`WIDER_{split}/images/`; the number N of its faces; N lines of ten integers with a blank at their end,
`x y width height blur expression illumination invalid occlusion pose` (pixels, x and y of the top left corner).
After N = 0 a line of ten zeros follows anyway. There are boxes without width or height, duplicate boxes,
and events 0 to 59 and 61, but no 60.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError

Boxes = NDArray[np.int64]
"""[N, 4]: x, y, width, height."""

PATH = re.compile(r"\d+--[^/\\]+/[^/\\]+\.(?:jpg|jpeg|png)", re.IGNORECASE | re.ASCII)
COUNT = re.compile(r"\d{1,6}", re.ASCII)
BOX = re.compile(r"(-?\d{1,9} ){9}-?\d{1,9}", re.ASCII)
INVALID = 7
"""The column before occlusion, as in the dataset's readme."""
NO_FACE = "0 0 0 0 0 0 0 0 0 0"


@dataclass(frozen=True, kw_only=True)
class Photo:
    path: str
    """`0--Parade/0_Parade_marchingband_1_849.jpg`."""
    line: int
    """Line of its path in the file, from 1."""
    boxes: Boxes
    """All of them, in the file's order."""
    invalid: NDArray[np.bool_]
    """[N]: boxes marked as invalid by the annotators."""


def parse_annotations(text: str, *, file: str) -> list[Photo]:
    """Return every photo in the file's order; raise `DataError` with file and line for any deviation."""
    # Only line feeds end a line: `splitlines` would also split at characters that a name may contain.
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{file} is empty. Unpack wider_face_split.zip again.")
    found: dict[str, Photo] = {}
    for photo in _photos(lines, file):
        if photo.path in found:
            raise DataError(
                f"{file}, line {photo.line}: {photo.path} is already annotated at line "
                f"{found[photo.path].line}. Keep one of the two."
            )
        found[photo.path] = photo
    return list(found.values())


def _photos(lines: list[str], file: str) -> Iterator[Photo]:
    at = 0
    while at < len(lines):
        start, path = at, lines[at]
        if not PATH.fullmatch(path):
            raise DataError(f"{file}, line {at + 1}: {_instead_of_path(path)}")
        if at + 1 >= len(lines) or not COUNT.fullmatch(lines[at + 1]):
            shown = repr(lines[at + 1]) if at + 1 < len(lines) else "the end of the file"
            raise DataError(f"{file}, line {at + 2}: expected the number of faces of {path}, found {shown}.")
        count = int(lines[at + 1])
        rows = lines[at + 2 : at + 2 + count]
        for offset, row in enumerate(rows):
            if not BOX.fullmatch(row):
                raise DataError(
                    f"{file}, line {at + 3 + offset}: expected box {offset + 1} of {count} of {path} (ten integers), "
                    f"found {row!r}."
                )
        if len(rows) < count:
            raise DataError(f"{file} ends after {len(rows)} of the {count} boxes of {path} (line {start + 1}).")
        at += 2 + count
        if count == 0:
            at += _dummy(lines, at, path, file)
        yield _photo(path, start + 1, rows, file)


def _dummy(lines: list[str], at: int, path: str, file: str) -> int:
    """Return the lines to skip after a count of 0: one of zeros, or none if a tool has left it out."""
    if at >= len(lines) or PATH.fullmatch(lines[at]):
        return 0
    if lines[at] != NO_FACE:
        raise DataError(f"{file}, line {at + 1}: {path} has 0 faces, but {lines[at]!r} follows instead of ten zeros.")
    return 1


def _photo(path: str, line: int, rows: list[str], file: str) -> Photo:
    table = np.array([row.split(" ") for row in rows], dtype=np.int64).reshape(-1, 10)
    flags = table[:, INVALID]
    wrong = np.flatnonzero((flags != 0) & (flags != 1))
    if len(wrong):
        raise DataError(
            f"{file}, line {line + 2 + int(wrong[0])}: the flag `invalid` (eighth number) of a face is "
            f"{int(flags[wrong[0]])}, not 0 or 1. Are the columns in the dataset's original order?"
        )
    return Photo(path=path, line=line, boxes=table[:, :4].copy(), invalid=flags == 1)


def _instead_of_path(found: str) -> str:
    if BOX.fullmatch(found):
        return f"expected a photo's path, found one more box ({found}) than the count of the photo above."
    return f"expected a photo's path such as 0--Parade/0_Parade_marchingband_1_849.jpg, found {found!r}."
