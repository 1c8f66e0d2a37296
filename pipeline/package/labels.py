"""Labels of an image, readable without starting it."""

from collections.abc import Mapping

from pipeline import __version__
from pipeline.artifacts import AccuracyReport
from targets.device.model.manifest import TENSORRT, Manifest

PREFIX = "dev.edge-deploy."
OPEN_CONTAINER = "org.opencontainers.image."
RUNTIME = PREFIX + "runtime"
"""Name and version of the runtime."""
SEAL = PREFIX + "seal"
"""Hash of everything a server reads of its model, see `targets.device.model.seal`."""


def image_labels(
    manifest: Manifest,
    report: AccuracyReport,
    *,
    name: str,
    version: str,
    base: str,
    safe: AccuracyReport | None = None,
) -> dict[str, str]:
    """Return the labels of an image with the artifact of `report` and its saturation-safe variant, if any."""
    labels = {
        OPEN_CONTAINER + "title": name,
        OPEN_CONTAINER + "version": version,
        OPEN_CONTAINER + "base.name": base,
        PREFIX + "tool": __version__,
        PREFIX + "target": manifest.target,
        RUNTIME: f"{manifest.runtime} {manifest.runtime_version}",
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


def needs_gpu(labels: Mapping[str, str]) -> bool | None:
    """Whether an image with these labels runs on a GPU; None if they do not say."""
    runtime = labels.get(RUNTIME)
    return None if runtime is None else runtime.partition(" ")[0] == TENSORRT


def _share(accuracy: float | None) -> str:
    return "none given" if accuracy is None else f"{accuracy:.4f}"
