"""Ask a model about a shard's images, and judge its answers: the gate, in every place but the building host's own.

Run images through any session: the same reading, decoding and preprocessing in every place.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Callable, Dict, Optional, Protocol

import numpy as np
from numpy.typing import NDArray

from targets.device.gate.judge import judge
from targets.device.gate.predictions import Predictions
from targets.device.gate.shard import Shard, ShardError
from targets.device.gate.tango import CONFIDENCE
from targets.device.model.image_files import ImageError, decode
from targets.device.model.manifest import Manifest
from targets.device.model.preprocess import Preprocessing, preprocess
from targets.device.model.session import Inference, Session

# Images held decoded at a time: bounds the memory, however many there are.
BATCH = 32


class Images(Protocol):
    """A shard, or any other sequence of encoded images."""

    def __len__(self) -> int: ...

    def encoded(self, index: int) -> bytes:
        """The original file's bytes of one image."""


class MeasureError(RuntimeError):
    """The session answered something else than one row of logits per image."""


def measure(
    images: Images,
    session: Inference,
    *,
    preprocessing: Preprocessing,
    classes: int,
    batch: int = BATCH,
    advance: Optional[Callable[[int], None]] = None,
) -> NDArray[np.float32]:
    """The session's logits [N, C] of the images, in their order; `advance` hears of every finished batch.

    Raises `ImageError` for an image that cannot be decoded here, and `MeasureError`.
    """
    logits = np.empty((len(images), classes), np.float32)
    for start in range(0, len(images), batch):
        stop = min(start + batch, len(images))
        inputs = np.stack([_input(images, index, preprocessing) for index in range(start, stop)])  # [B, 3, H, W]
        answer = session.infer(inputs)
        if answer.shape != (stop - start, classes):
            raise MeasureError(
                f"asked about {stop - start} images of {classes} classes, the model answered an array of "
                f"shape {list(answer.shape)}."
            )
        logits[start:stop] = answer
        if advance is not None:
            advance(stop - start)
    return logits


def _input(images: Images, index: int, preprocessing: Preprocessing) -> NDArray[np.float32]:
    try:
        return preprocess(decode(images.encoded(index), shorter_side=preprocessing.shorter_side), preprocessing)
    except ImageError as error:
        raise ImageError(f"image {index} cannot be used: {error}") from None


PLACE = "device"


def ask(
    shard: Shard, session: Session, manifest: Manifest, advance: Optional[Callable[[int], None]] = None
) -> Predictions:
    """Raises `ShardError` for another model's shard, `ImageError`, and `MeasureError` for answers that are none."""
    check_belongs(shard, manifest)
    logits = measure(shard, session, preprocessing=shard.preprocessing, classes=len(shard.classes), advance=advance)
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise MeasureError(f"the model's answer to {bad} of {len(shard)} images is no finite number.")
    return Predictions(
        logits=logits,
        shard_sha256=shard.sha256,
        artifact_sha256=manifest.model_sha256,
        instruction_set=session.instruction_set,
        runtime=session.runtime,
    )


def report_of(
    shard: Shard, predictions: Predictions, manifest: Manifest, *, max_drop: float, confidence: float = CONFIDENCE
) -> Dict[str, Any]:
    """The gate's report, ready for JSON, as the building host makes it of the same answers."""
    judgement = judge(
        shard.labels,
        shard.logits,
        predictions.logits,
        classes=shard.classes,
        max_drop=max_drop,
        confidence=confidence,
    )
    return {
        **asdict(judgement),
        "target": manifest.target,
        "place": PLACE,
        "shard_sha256": predictions.shard_sha256,
        "artifact_sha256": predictions.artifact_sha256,
        "instruction_set": predictions.instruction_set,
        "runtime": predictions.runtime,
    }


def belongs(predictions: Predictions, shard: Shard, session: Session, manifest: Manifest) -> bool:
    """Whether these are the answers of this model, on this machine, to this shard."""
    return predictions.logits.shape == shard.logits.shape and (
        predictions.shard_sha256,
        predictions.artifact_sha256,
        predictions.instruction_set,
        predictions.runtime,
    ) == (shard.sha256, manifest.model_sha256, session.instruction_set, session.runtime)


def check_belongs(shard: Shard, manifest: Manifest) -> None:
    """Raise `ShardError` where the float baseline saw other classes or inputs than the artifact, or nothing at all."""
    if len(shard) == 0:
        raise ShardError(f"the shard {shard.path} holds no image.")
    if shard.classes != manifest.classes or shard.preprocessing != manifest.preprocessing:
        raise ShardError(
            f"the shard {shard.path} was made for other classes or another preprocessing than the artifact "
            f"{manifest.name} {manifest.version}. Use the shard written beside the artifact."
        )
