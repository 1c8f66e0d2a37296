"""Which of an artifact's models runs here.

The main one; or the variant whose int8 sums cannot saturate on any CPU; or, where an engine of the main one is not
proven on this GPU and the recipe allows it, the one in fp16.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from targets.device.golden import saturates_here
from targets.device.manifest import TENSORRT, Manifest, ManifestError, read_manifest

LOG = logging.getLogger(__name__)
MAIN, SATURATION_SAFE, FP16 = "main", "saturation_safe", "fp16"
FOLDER = SATURATION_SAFE
"""Of the variant, an artifact of its own, in the folder of the main one; the fp16 one lies there by its own name."""
ALIKE = ("name", "version", "target", "classes", "input_shape", "preprocessing")


@dataclass(frozen=True)
class Chosen:
    """What runs here, and why."""

    variant: str
    """`main`, `saturation_safe` or `fp16`."""
    folder: Path
    manifest: Manifest
    reason: str
    """One sentence for the log."""


def choose(folder: Path) -> Chosen:
    """The main model of `folder`, unless this CPU would saturate its sums and the variant lies beside it.

    Without a variant it is the main one all the same, which the check of its golden images then refuses with the
    reason. Raises `ManifestError` where the one to run cannot be trusted, or where the variant is of another model.
    """
    main = read_manifest(folder)
    if main.runtime == TENSORRT:
        chosen = Chosen(MAIN, folder, main, "it is proven on this GPU before it is served")
    elif not saturates_here(main):
        chosen = Chosen(MAIN, folder, main, "this CPU adds up its products as the one it was proven on")
    elif not (folder / FOLDER).is_dir():
        chosen = Chosen(MAIN, folder, main, "this CPU saturates 8-bit sums, and no variant for it is in the image")
    else:
        safe = read_manifest(folder / FOLDER)
        _check_saturation_safe(safe, main, folder / FOLDER)
        reason = (
            f"this CPU saturates the sums of the main model's 8-bit weights, proven on {main.instruction_set}; "
            f"the variant with {safe.weight_bits}-bit weights cannot saturate"
        )
        chosen = Chosen(SATURATION_SAFE, folder / FOLDER, safe, reason)
    _log(chosen)
    return chosen


def fallback(folder: Path, main: Manifest, reason: str) -> Optional[Chosen]:
    """The fp16 model to build in place of `main`, for this `reason`; None where the recipe allowed none.

    Raises `ManifestError` where it cannot be trusted, or is of another model.
    """
    if not (folder / FP16).is_dir():
        return None
    half = read_manifest(folder / FP16)
    _check_belongs(half, main, folder / FP16)
    if (half.runtime, half.precision) != (TENSORRT, FP16):
        raise ManifestError(
            f"{folder / FP16} is a model for {half.runtime} in {half.precision}, not for {TENSORRT} in {FP16}. Build "
            "the artifact again."
        )
    chosen = Chosen(FP16, folder / FP16, half, f"in place of {main.precision}, as the recipe allows: {reason}")
    _log(chosen, logging.WARNING)
    return chosen


def _log(chosen: Chosen, level: int = logging.INFO) -> None:
    fields = {"variant": chosen.variant, "model_sha256": chosen.manifest.model_sha256, "reason": chosen.reason}
    LOG.log(level, "model chosen", extra={"fields": fields})


def _check_saturation_safe(safe: Manifest, main: Manifest, folder: Path) -> None:
    _check_belongs(safe, main, folder)
    if safe.weight_bits != 7:
        raise ManifestError(
            f"the variant {folder} has weight_bits {safe.weight_bits}, not 7, so its sums may saturate as well. "
            "Build the artifact again."
        )


def _check_belongs(other: Manifest, main: Manifest, folder: Path) -> None:
    differing = [name for name in ALIKE if getattr(other, name) != getattr(main, name)]
    if differing:
        raise ManifestError(
            f"the variant {folder} is of another model than the one beside it: {', '.join(differing)} differ. "
            "Copy the artifact again."
        )
