"""Which of an artifact's models runs here: the main one, or the variant whose int8 sums cannot saturate on any CPU."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from targets.device.golden import saturates_here
from targets.device.manifest import Manifest, ManifestError, read_manifest

LOG = logging.getLogger(__name__)
MAIN, SATURATION_SAFE = "main", "saturation_safe"
FOLDER = SATURATION_SAFE
"""Of the variant, an artifact of its own, in the folder of the main one."""
ALIKE = ("name", "version", "target", "classes", "input_shape", "preprocessing")


@dataclass(frozen=True)
class Chosen:
    """What runs here, and why."""

    variant: str
    """`main` or `saturation_safe`."""
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
    if not saturates_here(main):
        chosen = Chosen(MAIN, folder, main, "this CPU adds up its products as the one it was proven on")
    elif not (folder / FOLDER).is_dir():
        chosen = Chosen(MAIN, folder, main, "this CPU saturates 8-bit sums, and no variant for it is in the image")
    else:
        safe = read_manifest(folder / FOLDER)
        _check_belongs(safe, main, folder / FOLDER)
        reason = (
            f"this CPU saturates the sums of the main model's 8-bit weights, proven on {main.instruction_set}; "
            f"the variant with {safe.weight_bits}-bit weights cannot saturate"
        )
        chosen = Chosen(SATURATION_SAFE, folder / FOLDER, safe, reason)
    fields = {"variant": chosen.variant, "model_sha256": chosen.manifest.model_sha256, "reason": chosen.reason}
    LOG.info("model chosen", extra={"fields": fields})
    return chosen


def _check_belongs(safe: Manifest, main: Manifest, folder: Path) -> None:
    differing = [name for name in ALIKE if getattr(safe, name) != getattr(main, name)]
    if differing:
        raise ManifestError(
            f"the variant {folder} is of another model than the one beside it: {', '.join(differing)} differ. "
            "Copy the artifact again."
        )
    if safe.weight_bits != 7:
        raise ManifestError(
            f"the variant {folder} has weight_bits {safe.weight_bits}, not 7, so its sums may saturate as well. "
            "Build the artifact again."
        )
