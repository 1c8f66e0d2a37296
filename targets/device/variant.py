"""Which of an artifact's models runs here.

The main one; or the variant whose int8 sums cannot saturate on any CPU; or, as the recipe allows, one in another
precision: where an engine of the main one is not proven on this GPU, or where its own is the faster one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

from targets.device.golden import saturates_here
from targets.device.manifest import TENSORRT, Manifest, ManifestError, read_manifest
from targets.device.seal import check_seal, stated_for

LOG = logging.getLogger(__name__)
MAIN, SATURATION_SAFE, FP16 = "main", "saturation_safe", "fp16"
PRECISIONS = ("int8", FP16, "fp32")
"""The smallest first."""
FOLDER = SATURATION_SAFE
"""Of the variant, an artifact of its own, in the folder of the main one; another precision lies there by its name."""
ALIKE = ("name", "version", "target", "classes", "input_shape", "preprocessing")


@dataclass(frozen=True)
class Chosen:
    """What runs here, and why."""

    variant: str
    """`main`, `saturation_safe`, or the precision that takes the main one's place."""
    folder: Path
    manifest: Manifest
    reason: str
    """One sentence for the log."""


def choose(folder: Path) -> Chosen:
    """The main model of `folder`, unless this CPU would saturate its sums and the variant lies beside it.

    Without a variant it is the main one all the same, which the check of its golden images then refuses with the
    reason. Raises `ManifestError` where the one to run cannot be trusted, where the variant is of another model, or
    where any file of a packaged folder is not what was packaged.
    """
    # Here, as whatever serves, proves or measures asks this first; and before a file is parsed that may be damaged.
    check_seal(folder, stated_for(folder))
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
    log(chosen)
    return chosen


def fallback(folder: Path, main: Manifest, reason: str) -> Optional[Chosen]:
    """The fp16 model to build in place of `main`, for this `reason`; None where there is none.

    Raises `ManifestError` where it cannot be trusted, or is of another model.
    """
    if not (folder / FP16).is_dir():
        return None
    half = _beside(folder, main, FP16)
    chosen = Chosen(FP16, folder / FP16, half, f"in place of {main.precision}, as the recipe allows: {reason}")
    log(chosen, logging.WARNING)
    return chosen


def rivals(folder: Path, main: Manifest) -> List[Chosen]:
    """The models in other precisions beside `main`, the smallest first; raises `ManifestError` as `fallback` does."""
    return [
        Chosen(
            precision, folder / precision, _beside(folder, main, precision), f"to be compared with {main.precision}"
        )
        for precision in PRECISIONS
        if precision != main.precision and (folder / precision).is_dir()
    ]


def log(chosen: Chosen, level: int = logging.INFO) -> None:
    """Say what runs here, and why."""
    fields = {"variant": chosen.variant, "model_sha256": chosen.manifest.model_sha256, "reason": chosen.reason}
    LOG.log(level, "model chosen", extra={"fields": fields})


def _beside(folder: Path, main: Manifest, precision: str) -> Manifest:
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
