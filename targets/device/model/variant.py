"""Choose which of an artifact's models runs here.

It is the main one, or the variant whose int8 sums cannot saturate on any CPU. If the recipe allows it, it is one in
another precision: if the main engine is not proven on this GPU, or if the other engine is faster.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

from targets.device.model.golden import saturates_here
from targets.device.model.manifest import TENSORRT, Manifest, ManifestError, read_manifest
from targets.device.model.seal import check_seal, stated_for

LOG = logging.getLogger(__name__)
MAIN, SATURATION_SAFE, FP16 = "main", "saturation_safe", "fp16"
PRECISIONS = ("int8", FP16, "fp32")
"""Smallest first."""
FOLDER = SATURATION_SAFE
"""Subfolder with the variant, itself an artifact; other precisions are in subfolders with their names."""
ALIKE = ("name", "version", "target", "classes", "input_shape", "preprocessing")


@dataclass(frozen=True)
class Chosen:
    """The model that runs here, with the reason."""

    variant: str
    """`main`, `saturation_safe`, or the precision that replaces the main one."""
    folder: Path
    manifest: Manifest
    reason: str
    """One sentence for the log."""


def choose(folder: Path) -> Chosen:
    """Choose the main model of `folder`, or its variant if the main model's sums saturate on this CPU.

    Without a variant it is still the main one, which then fails the check of its golden images. Raises `ManifestError`
    if a manifest is invalid, if the variant is of another model, or if a packaged folder does not match its seal.
    """
    # Checked here, because serve, prove and bench all call this first, before any damaged file could be parsed.
    check_seal(folder, stated_for(folder))
    main = read_manifest(folder)
    if main.runtime == TENSORRT:
        chosen = Chosen(MAIN, folder, main, "it is proven on this GPU before it is served")
    elif not saturates_here(main):
        chosen = Chosen(MAIN, folder, main, "int8 sums on this CPU are the same as on the one it was proven on")
    elif not (folder / FOLDER).is_dir():
        chosen = Chosen(
            MAIN, folder, main, "sums of 8-bit weights saturate on this CPU, and the image has no variant for it"
        )
    else:
        safe = read_manifest(folder / FOLDER)
        _check_saturation_safe(safe, main, folder / FOLDER)
        reason = (
            f"sums of the main model's 8-bit weights, proven on {main.instruction_set}, saturate on this CPU; "
            f"those of the variant with {safe.weight_bits}-bit weights do not"
        )
        chosen = Chosen(SATURATION_SAFE, folder / FOLDER, safe, reason)
    log(chosen)
    return chosen


def fallback(folder: Path, main: Manifest, reason: str) -> Optional[Chosen]:
    """Return the fp16 model to build instead of `main`, for this `reason`; None if there is none.

    Raises `ManifestError` if it is invalid, or of another model.
    """
    if not (folder / FP16).is_dir():
        return None
    half = _read_precision(folder, main, FP16)
    chosen = Chosen(FP16, folder / FP16, half, f"instead of {main.precision}, as the recipe allows: {reason}")
    log(chosen, logging.WARNING)
    return chosen


def rivals(folder: Path, main: Manifest) -> List[Chosen]:
    """Return the models in other precisions, smallest first; raise `ManifestError` as `fallback` does."""
    return [
        Chosen(
            precision,
            folder / precision,
            _read_precision(folder, main, precision),
            f"to be compared with {main.precision}",
        )
        for precision in PRECISIONS
        if precision != main.precision and (folder / precision).is_dir()
    ]


def log(chosen: Chosen, level: int = logging.INFO) -> None:
    """Log the chosen model and the reason."""
    fields = {"variant": chosen.variant, "model_sha256": chosen.manifest.model_sha256, "reason": chosen.reason}
    LOG.log(level, "model chosen", extra={"fields": fields})


def _read_precision(folder: Path, main: Manifest, precision: str) -> Manifest:
    found = read_manifest(folder / precision)
    _check_belongs(found, main, folder / precision)
    if (found.runtime, found.precision) != (TENSORRT, precision):
        raise ManifestError(
            f"{folder / precision} is a model for {found.runtime} in {found.precision}, not for {TENSORRT} in "
            f"{precision}. Build the artifact again."
        )
    return found


def _check_saturation_safe(safe: Manifest, main: Manifest, folder: Path) -> None:
    _check_belongs(safe, main, folder)
    if safe.weight_bits != 7:
        raise ManifestError(
            f"the variant {folder} has weight_bits {safe.weight_bits}, not 7, so its sums may saturate, too. "
            "Build the artifact again."
        )


def _check_belongs(other: Manifest, main: Manifest, folder: Path) -> None:
    differing = [name for name in ALIKE if getattr(other, name) != getattr(main, name)]
    if differing:
        raise ManifestError(
            f"the variant {folder} does not belong to the main model: {', '.join(differing)} differ. "
            "Copy the artifact again."
        )
