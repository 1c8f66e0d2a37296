"""An artifact folder: the model, its manifest, and golden images that verify it wherever it is opened."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import OnnxModel
from pipeline.data.images import ImageSet
from pipeline.data.sampling import BATCH, pixels_of, spread
from pipeline.data.synthetic import draw_images
from pipeline.errors import CompileError
from targets.device.errors import SessionError
from targets.device.model.golden import check, write_golden
from targets.device.model.manifest import Manifest, ManifestError, read_manifest
from targets.device.model.preprocess import Preprocessing, normalize
from targets.device.model.session import Session
from targets.runtimes.simulation import open_here

MODEL = "model.onnx"
GOLDEN_BYTES = 1 << 20
MIN_GOLDEN, MAX_GOLDEN = 8, 64
DRAWN_FOR_ONE = 8
"""Drawings made for each one that becomes golden."""
CLEAR_MARGIN = 0.05
"""Smallest margin of the top class, relative to the logits' range: another CPU's rounding must not change it."""


@dataclass(frozen=True, kw_only=True)
class OpenArtifact:
    """An artifact opened as on the device, or by ONNX Runtime instead of its engine."""

    folder: Path
    manifest: Manifest
    session: Session


def write_artifact(folder: Path, model: OnnxModel, manifest: Manifest) -> None:
    """Write model and manifest; golden images follow once the model has been run."""
    folder.mkdir(parents=True)
    shutil.copyfile(model.path, folder / manifest.model_file)
    manifest.write(folder)


@contextmanager
def open_artifact(folder: Path) -> Iterator[OpenArtifact]:
    """Open the artifact and close it at the end; raise `CompileError` if it cannot be opened."""
    try:
        manifest = read_manifest(folder)
        session = open_here(folder, manifest)
    except (ManifestError, SessionError) as error:
        raise CompileError(str(error)) from None
    with session:
        yield OpenArtifact(folder=folder, manifest=manifest, session=session)


def input_shape(images: ImageSet, preprocessing: Preprocessing) -> tuple[int, int, int]:
    """Return channels, height, width of the network's input, from the first preprocessed image."""
    _, height, width, channels = pixels_of(images, [0], preprocessing).shape
    return (channels, height, width)


def add_golden(artifact: OpenArtifact, images: ImageSet, logits: NDArray[np.float32]) -> None:
    """Choose golden images among `images`, whose `logits` [N, C] are the artifact's, and check them once here.

    Images that show people are never used; drawings are, which verify the computation as well.
    """
    _, height, width = artifact.manifest.input_shape
    count = min(max(GOLDEN_BYTES // (3 * height * width), MIN_GOLDEN), MAX_GOLDEN)
    if images.is_personal:
        # They are part of every image, which must not show people.
        pixels = draw_images(DRAWN_FOR_ONE * count, height=height, width=width)
        logits = _answers(artifact, pixels)
        of_every_class = pick_balanced(logits.argmax(axis=1), least=count)
        pixels, logits = pixels[of_every_class], logits[of_every_class]
        chosen = choose_golden(logits, count)
        pixels = pixels[chosen]
    else:
        chosen = choose_golden(logits, count)
        pixels = pixels_of(images, chosen, artifact.manifest.preprocessing)
    write_golden(artifact.folder, pixels, logits[chosen])
    result = check(artifact.session, artifact.folder, artifact.manifest)
    if not result.matched:
        raise CompileError(f"{artifact.folder.name} does not repeat its own answers: {result.reason}.")


def _answers(artifact: OpenArtifact, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    parts = np.array_split(pixels, -(-len(pixels) // BATCH))
    preprocessing = artifact.manifest.preprocessing
    return np.concatenate([artifact.session.infer(normalize(part, preprocessing)) for part in parts])


def pick_balanced(predicted: NDArray[np.int64], *, least: int) -> NDArray[np.int64]:
    """Return the indices of equally many images of each predicted class, at least `least` in total."""
    classes, sizes = np.unique(predicted, return_counts=True)
    limit = max(int(sizes.min()), -(-least // len(classes)))
    while np.minimum(sizes, limit).sum() < min(least, len(predicted)):
        limit += 1
    return np.sort(np.concatenate([np.flatnonzero(predicted == one)[:limit] for one in classes]))


def choose_golden(logits: NDArray[np.float32], count: int) -> list[int]:
    """Return the indices of `count` images spread over those with a clear winner, or the clearest if too few."""
    ordered = np.sort(logits, axis=1)
    margin = ordered[:, -1] - ordered[:, -2] if logits.shape[1] > 1 else np.zeros(len(logits))
    clear = np.flatnonzero(margin >= CLEAR_MARGIN * np.ptp(logits))
    if len(clear) < count:
        clear = np.sort(np.argsort(-margin, kind="stable")[:count])
    return [int(clear[index]) for index in spread(len(clear), count)]
