"""`golden.npz`: images with the logits the artifact gave when it was built; proof that it still computes the same."""

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
# Other instruction sets round float sums differently, so logits move; the class of a clear image must not.
AGREEMENT_ELSEWHERE = 0.995


@dataclass(frozen=True)
class GoldenResult:
    """What came out when the golden images were run here."""

    matched: bool
    reason: str
    """One sentence with the figures, for the log and for the readiness answer."""
    images: int
    agreement: float
    """Share of images with the expected class."""
    max_difference: float
    """Largest absolute difference of a logit."""


def write_golden(folder: Path, pixels: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
    """Keep `pixels` [N, H, W, 3], before normalization: a quarter of the bytes, and normalization is proven, too."""
    write_golden_file(folder / FILE, pixels, logits)


def write_golden_file(file: Path, pixels: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
    """The same under another name, which ends in `.npz`."""
    np.savez_compressed(file, pixels=pixels, logits=logits)


def read_golden(folder: Path) -> Tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pixels [N, H, W, 3] and logits [N, C]; raises ValueError or OSError for a file that is none of ours."""
    try:
        # Opened here, since NumPy leaves its own handle open on a damaged file.
        with (folder / FILE).open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            pixels, logits = file["pixels"], file["logits"]
    except (LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{folder / FILE} is damaged: {error}") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) != len(logits) or len(pixels) == 0:
        raise ValueError(f"{folder / FILE} is damaged: pixels {pixels.shape}, logits {logits.shape}")
    return pixels, logits


def saturates_here(manifest: Manifest) -> bool:
    """Whether this CPU would saturate the model's sums, which were proven on another instruction set."""
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

    `here` is what computes, unless it is this CPU; `expected_of` what gave the expected logits, unless it is what the
    manifest says. On the same instruction set every class must be equal and every logit within the
    manifest's tolerance; elsewhere 99.5 % of the classes must be equal. A CPU whose int8 sums saturate never gets
    8-bit weights that were proven on one where they do not: a few clear images would not show the harm.
    """
    here = instruction_set() if here is None else here
    expected_of = manifest.instruction_set if expected_of is None else expected_of
    if saturates_here(manifest):
        reason = (
            f"this CPU ({here}) adds int8 products in 16 bits, which saturate with the 8-bit weights of this model; "
            f"its accuracy was proven on {manifest.instruction_set}. Build it with --weight-bits 7 for this device, "
            "or with --saturation-safe for both kinds"
        )
        return GoldenResult(False, reason, 0, 0.0, float("inf"))
    try:
        pixels, expected = read_golden(folder)
    except (ValueError, OSError) as error:
        return GoldenResult(False, f"the golden images cannot be read: {error}", 0, 0.0, float("inf"))
    if pixels.shape[1:] != (*manifest.input_shape[1:], 3):
        reason = f"the golden images {list(pixels.shape)} are none for inputs {list(manifest.input_shape)}"
        return GoldenResult(False, reason, len(expected), 0.0, float("inf"))
    found = session.infer(normalize(pixels, manifest.preprocessing))
    if found.shape != expected.shape or not np.isfinite(found).all():
        reason = f"the model answers {list(found.shape)}, not {list(expected.shape)} finite logits"
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
        rule = f"all classes and {limit:.3g} are asked for on {here}"
    else:
        matched = agreement >= AGREEMENT_ELSEWHERE
        rule = f"{AGREEMENT_ELSEWHERE:.1%} are asked for on {here}, as it was built on {expected_of}"
    verb = "match" if matched else "do not match"
    reason = (
        f"{len(expected)} golden images {verb}: {agreement:.1%} of the classes agree, logits differ by at most "
        f"{difference:.3g}; {rule}"
    )
    return GoldenResult(matched, reason, len(expected), agreement, difference)
