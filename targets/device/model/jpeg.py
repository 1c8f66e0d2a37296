"""The cost of decoding a JPEG file, from its markers (ITU-T T.81, annex B)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Optional, Tuple

_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Start-of-frame markers; the three excluded ones are tables."""
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_BLOCK = 8
_COEFFICIENT_BYTES = 2


@dataclass(frozen=True)
class Frame:
    """The frame of the first image in the file."""

    width: int
    height: int
    sampling: Tuple[Tuple[int, int], ...]
    """Horizontal and vertical sampling factors of each component."""
    is_progressive: bool
    scans: int
    """Number of scans; each covers all blocks of its components."""
    is_interleaved: bool
    """Whether the first scan contains all components."""

    @property
    def is_kept(self) -> bool:
        """Whether the decoder keeps all coefficients at full size, even if it outputs fewer pixels."""
        return self.is_progressive or not self.is_interleaved

    @property
    def coefficient_bytes(self) -> int:
        if not self.is_kept:
            return 0
        across, down = max(h for h, _ in self.sampling), max(v for _, v in self.sampling)
        units = -(-self.width // (_BLOCK * across)) * -(-self.height // (_BLOCK * down))
        return units * sum(h * v for h, v in self.sampling) * _BLOCK * _BLOCK * _COEFFICIENT_BYTES


def frame_of(data: bytes) -> Optional[Frame]:
    """Return the frame; None if the markers are corrupt, which the decoder reports later."""
    try:
        return _frame(data)
    except (struct.error, IndexError, ValueError):
        return None


def _frame(data: bytes) -> Optional[Frame]:
    place, header, kind = 2, b"", 0
    while place < len(data):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF:
            # Fill bytes.
            place += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            place += 2
            continue
        (length,) = struct.unpack_from(">H", data, place + 2)
        if marker == 0xDA:
            return None if not header else _read(data, place, header, kind)
        if marker in _FRAMES and not header:
            header, kind = data[place + 4 : place + 2 + length], marker
        place += 2 + length
    return None


def _read(data: bytes, first_scan: int, header: bytes, kind: int) -> Optional[Frame]:
    _precision, height, width, components = struct.unpack_from(">BHHB", header)
    sampling = tuple((header[7 + 3 * each] >> 4, header[7 + 3 * each] & 15) for each in range(components))
    if not sampling or not all(h and v for h, v in sampling):
        return None
    end = data.find(_END_OF_IMAGE, first_scan)
    return Frame(
        width=width,
        height=height,
        sampling=sampling,
        is_progressive=kind in _PROGRESSIVE,
        # In a scan's data 0xFF is followed by 0 or a restart marker. Phones append more images.
        scans=data.count(_START_OF_SCAN, first_scan, end if end >= 0 else len(data)),
        is_interleaved=data[first_scan + 4] == components,
    )
