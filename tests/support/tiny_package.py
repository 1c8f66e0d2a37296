"""All that `package` is given, made in seconds: the tiny artifact, its golden images, a shard, predictions, a report.

What was once proven is proven again by every place that opens it: 120 images in strong colors, which the float
network finds to be of three classes, labelled as it labels them.
"""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Photo
from tiny_artifact import PREPROCESSING, manifest_of, write_tiny_artifact
from tiny_onnx import SIDE, write_float

from pipeline.artifacts import AccuracyReport, Artifact, Audit, Candidate, Image, Latency, Place, Precision
from pipeline.data.images import ImageSet
from pipeline.package.package import Proof
from pipeline.progress import Silent
from pipeline.results import Judged
from pipeline.validate.judge import Terms, judge_predictions
from pipeline.validate.measure import measure_artifact
from pipeline.validate.shard import pack_shard
from pipeline.workspace.hashing import sha256_of_file
from pipeline.workspace.store import Folder
from targets.device.files import SHARD
from targets.device.model.golden import write_golden
from targets.device.model.manifest import Manifest, read_manifest
from targets.device.model.preprocess import normalize
from targets.device.open_session import open_session

CLASSES = ("a", "b", "c", "d")
IMAGES, GOLDEN = 120, 16
LATENCY = Latency(cpu_ms=1.0, wall_ms=1.0, wall_p90_ms=1.0, threads=1, runs=1)


@dataclass(frozen=True, kw_only=True)
class TinyPackage:
    artifact: Artifact
    report: AccuracyReport
    proof: Proof

    @property
    def folder(self) -> Path:
        return self.artifact.folder

    @property
    def judged(self) -> Judged:
        answers = Folder(path=self.proof.predictions.parent, digest="0", seconds=0.0, was_cached=True)
        return Judged(artifact=self.artifact, answers=answers, report=self.report)

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder)


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """What `package` made of it, and where it put it."""

    tiny: TinyPackage
    image: Image
    folder: Path
    base_image: str


def write_tiny_package(folder: Path, *, quantized: bool = True, weight_bits: int = 7) -> TinyPackage:
    """An artifact folder as `deploy build` publishes it, and what the image will be compared with."""
    manifest = write_tiny_artifact(folder, quantized=quantized, weight_bits=weight_bits)
    pixels = colorful(GOLDEN, seed=1)
    with open_session(folder, manifest) as session:
        write_golden(folder, pixels, session.infer(normalize(pixels, PREPROCESSING)))
    _write_shard(folder)
    measure_artifact(folder, folder / SHARD, folder, progress=Silent())
    proof = Proof(shard=folder / SHARD, predictions=folder / "predictions.npz")
    report = judge_predictions(
        proof.shard, proof.predictions, artifact=folder, place=Place.HOST, terms=Terms(max_drop=50.0, gate_looks=1)
    )
    return TinyPackage(artifact=_artifact(folder, manifest), report=report, proof=proof)


def colorful(count: int, *, seed: int) -> NDArray[np.uint8]:
    """Images of one strong color each with some noise on it: [N, 8, 8, 3]."""
    random = np.random.default_rng(seed)
    color = random.choice((0, 255), (count, 1, 1, 3))
    noise = random.integers(-60, 60, (count, SIDE, SIDE, 3))
    return np.clip(color + noise, 0, 255).astype(np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    written = io.BytesIO()
    Photo.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def with_manifest(folder: Path, **changes: object) -> Manifest:
    """Rewrite the artifact's manifest."""
    changed = replace(read_manifest(folder), **changes)  # type: ignore[arg-type]
    changed.write(folder)
    return changed


def _write_shard(folder: Path) -> None:
    """The float network's answers are the labels."""
    pixels = colorful(IMAGES, seed=2)
    scratch = folder / "float"
    scratch.mkdir()
    write_float(scratch / "model.onnx")
    manifest = manifest_of(scratch, sha256_of_file(scratch / "model.onnx"))
    with open_session(scratch, manifest) as session:
        logits = session.infer(normalize(pixels, PREPROCESSING))
    (scratch / "model.onnx").unlink()
    scratch.rmdir()
    labels = logits.argmax(axis=1)
    assert len(set(labels.tolist())) >= 3
    encoded = [png(each) for each in pixels]
    names = [f"{index}.png" for index in range(IMAGES)]
    images = ImageSet(read=encoded.__getitem__, digests=names, names=names, labels=labels)
    pack_shard(images, logits, classes=CLASSES, preprocessing=PREPROCESSING, progress=Silent(), folder=folder)


def _artifact(folder: Path, manifest: Manifest) -> Artifact:
    candidate = Candidate(
        precision=Precision(manifest.precision),
        folder=folder,
        latency=LATENCY,
        audit=Audit(int8_nodes=4, float_nodes=0),
        selection_top1=1.0,
        selection_drop_points=0.0,
    )
    return Artifact(
        folder=folder,
        target=manifest.target,
        precision=candidate.precision,
        reason="the only one",
        candidate=candidate,
        float_latency=LATENCY,
        place=Place.HOST,
        measured_by="linux/amd64",
    )
