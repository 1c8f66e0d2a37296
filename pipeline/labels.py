"""What can be asked of an image without starting it."""

from pipeline import __version__
from pipeline.artifacts import AccuracyReport
from targets.device.manifest import Manifest

PREFIX = "dev.edge-deploy."
OPEN_CONTAINER = "org.opencontainers.image."
SEAL = PREFIX + "seal"
"""The hash over all that a server reads of its model, see `targets.device.seal`."""


def image_labels(
    manifest: Manifest,
    report: AccuracyReport,
    *,
    name: str,
    version: str,
    base: str,
    safe: AccuracyReport | None = None,
) -> dict[str, str]:
    """Labels of an image that holds the artifact of `report` and, where it has one, of its saturation-safe variant."""
    labels = {
        OPEN_CONTAINER + "title": name,
        OPEN_CONTAINER + "version": version,
        OPEN_CONTAINER + "base.name": base,
        PREFIX + "tool": __version__,
        PREFIX + "target": manifest.target,
        PREFIX + "runtime": f"{manifest.runtime} {manifest.runtime_version}",
        PREFIX + "precision": manifest.precision,
        PREFIX + "model.sha256": manifest.model_sha256,
        PREFIX + "shard.sha256": report.shard_sha256,
        PREFIX + "verdict": report.verdict.value,
        PREFIX + "place": report.place.value,
        PREFIX + "float-top1": f"{report.float_top1:.4f}",
        PREFIX + "expected-accuracy": _share(report.expected_accuracy),
        PREFIX + "drop-points": f"{report.drop_points:.3f}",
        PREFIX + "images": str(report.images),
        PREFIX + "gate-looks": str(report.gate_looks),
        PREFIX + "confidence": f"{report.confidence:.4f}",
        PREFIX + "instruction-set": report.instruction_set,
    }
    if safe is not None:
        labels |= {
            PREFIX + "saturation-safe.model.sha256": safe.artifact_sha256,
            PREFIX + "saturation-safe.verdict": safe.verdict.value,
            PREFIX + "saturation-safe.drop-points": f"{safe.drop_points:.3f}",
        }
    return labels


def _share(accuracy: float | None) -> str:
    return "none given" if accuracy is None else f"{accuracy:.4f}"
