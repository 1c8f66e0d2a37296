"""`golden.npz`: images with the artifact's logits at build time, to check that it still computes the same."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from targets.device.model.cpu import instruction_set, saturates_8bit
from targets.device.model.manifest import ONNXRUNTIME, Manifest
from targets.device.model.preprocess import normalize
from targets.device.model.session import Inference

FILE = "golden.npz"
# Other instruction sets round float sums differently, so logits differ slightly, but classes should not.
AGREEMENT_ELSEWHERE = 0.995


@dataclass(frozen=True)
class GoldenResult:
    """The result of the golden images on this machine."""

    matched: bool
    reason: str
    """One sentence with the numbers, for the log and the readiness response."""
    images: int
    agreement: float
    """Share of images with the expected class."""
    max_difference: float
    """Largest absolute difference of a logit."""


def write_golden(folder: Path, pixels: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
    """Write `pixels` [N, H, W, 3] before normalization: a quarter of the size, and normalization is tested, too."""
    write_golden_file(folder / FILE, pixels, logits)


def write_golden_file(file: Path, pixels: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
    """Write golden images to `file`, whose name ends in `.npz`."""
    np.savez_compressed(file, pixels=pixels, logits=logits)


def read_golden(folder: Path) -> Tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return pixels [N, H, W, 3] and logits [N, C]; raise ValueError or OSError for an unreadable file."""
    try:
        # Opened here, because NumPy does not close its own handle on a damaged file.
        with (folder / FILE).open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            pixels, logits = file["pixels"], file["logits"]
    except (LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{folder / FILE} is damaged: {error}") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) != len(logits) or len(pixels) == 0:
        raise ValueError(f"{folder / FILE} is damaged: pixels {pixels.shape}, logits {logits.shape}")
    return pixels, logits


def saturates_here(manifest: Manifest) -> bool:
    """Return whether the model's sums saturate on this CPU, although they were proven on another instruction set."""
    if manifest.runtime != ONNXRUNTIME:
        return False
    return instruction_set() != manifest.instruction_set and manifest.weight_bits == 8 and saturates_8bit()


def check(
    session: Inference,
    folder: Path,
    manifest: Manifest,
    *,
    here: Optional[str] = None,
    expected_of: Optional[str] = None,
) -> GoldenResult:
    """Run the golden images of `folder` through `session` and compare.

    `here` is the instruction set that computes, by default this CPU's; `expected_of` the one that computed the
    expected logits, by default the manifest's. If they are equal, every class must be equal and every logit within
    the manifest's tolerance; otherwise 99.5 % of the classes must be equal. If int8 sums saturate on this CPU, 8-bit
    weights proven on a CPU where they do not always fail: a few clear images would not show the loss.
    """
    here = instruction_set() if here is None else here
    expected_of = manifest.instruction_set if expected_of is None else expected_of
    if saturates_here(manifest):
        reason = (
            f"this CPU ({here}) sums int8 products in 16 bits, which saturate with the 8-bit weights of this model; "
            f"its accuracy was proven on {manifest.instruction_set}. Build it with --weight-bits 7 for this device, "
            "or with --saturation-safe for both kinds of CPU"
        )
        return GoldenResult(False, reason, 0, 0.0, float("inf"))
    try:
        pixels, expected = read_golden(folder)
    except (ValueError, OSError) as error:
        return GoldenResult(False, f"the golden images cannot be read: {error}", 0, 0.0, float("inf"))
    if pixels.shape[1:] != (*manifest.input_shape[1:], 3):
        reason = f"the golden images {list(pixels.shape)} do not fit the input shape {list(manifest.input_shape)}"
        return GoldenResult(False, reason, len(expected), 0.0, float("inf"))
    found = session.infer(normalize(pixels, manifest.preprocessing))
    if found.shape != expected.shape or not np.isfinite(found).all():
        reason = f"the model's output is {list(found.shape)}, not {list(expected.shape)} finite logits"
        return GoldenResult(False, reason, len(expected), 0.0, float("inf"))
    return _compare(expected, found, manifest.tolerance, here=here, expected_of=expected_of)


def _compare(
    expected: NDArray[np.float32], found: NDArray[np.float32], tolerance: float, *, here: str, expected_of: str
) -> GoldenResult:
    agreement = float(np.mean(expected.argmax(1) == found.argmax(1)))
    difference = float(np.abs(expected - found).max())
    limit = tolerance * float(np.ptp(expected))
    if here == expected_of:
        matched = agreement == 1.0 and difference <= limit
        rule = f"on {here}, all classes must agree, and logits to {limit:.3g}"
    else:
        matched = agreement >= AGREEMENT_ELSEWHERE
        rule = f"on {here}, {AGREEMENT_ELSEWHERE:.1%} must agree, because it was built on {expected_of}"
    verb = "match" if matched else "do not match"
    reason = (
        f"{len(expected)} golden images {verb}: {agreement:.1%} of the classes agree, logits differ by at most "
        f"{difference:.3g}; {rule}"
    )
    return GoldenResult(matched, reason, len(expected), agreement, difference)
