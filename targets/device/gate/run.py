"""Run a model on a shard's images and judge its predictions: the gate, outside the build host.

Reading, decoding and preprocessing are the same in every place.
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

# Images decoded at a time, which limits memory.
BATCH = 32


class Images(Protocol):
    """A shard, or any other sequence of encoded images."""

    def __len__(self) -> int: ...

    def encoded(self, index: int) -> bytes:
        """Return the bytes of one image's file."""


class MeasureError(RuntimeError):
    """The session did not return one row of finite logits per image."""


def measure(
    images: Images,
    session: Inference,
    *,
    preprocessing: Preprocessing,
    classes: int,
    batch: int = BATCH,
    advance: Optional[Callable[[int], None]] = None,
) -> NDArray[np.float32]:
    """Return the session's logits [N, C] of the images, in order; call `advance` with the size of each finished batch.

    Raises `ImageError` for an image that cannot be decoded, and `MeasureError`.
    """
    logits = np.empty((len(images), classes), np.float32)
    for start in range(0, len(images), batch):
        stop = min(start + batch, len(images))
        inputs = np.stack([_input(images, index, preprocessing) for index in range(start, stop)])  # [B, 3, H, W]
        answer = session.infer(inputs)
        if answer.shape != (stop - start, classes):
            raise MeasureError(
                f"for {stop - start} images of {classes} classes, the model returned an array of shape "
                f"{list(answer.shape)}."
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


def predict(
    shard: Shard, session: Session, manifest: Manifest, advance: Optional[Callable[[int], None]] = None
) -> Predictions:
    """Run the model on the shard; raise `ShardError` for another model's shard, `ImageError` and `MeasureError`."""
    check_belongs(shard, manifest)
    logits = measure(shard, session, preprocessing=shard.preprocessing, classes=len(shard.classes), advance=advance)
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise MeasureError(f"the model's logits for {bad} of {len(shard)} images are not finite.")
    return Predictions(
        logits=logits,
        shard_sha256=shard.sha256,
        artifact_sha256=manifest.model_sha256,
        instruction_set=session.instruction_set,
        runtime=session.runtime,
    )


def make_report(
    shard: Shard, predictions: Predictions, manifest: Manifest, *, max_drop: float, confidence: float = CONFIDENCE
) -> Dict[str, Any]:
    """Return the gate's report, ready for JSON, as the build host makes it from the same predictions."""
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
    """Return whether the predictions are of this model, on this machine, for this shard."""
    return predictions.logits.shape == shard.logits.shape and (
        predictions.shard_sha256,
        predictions.artifact_sha256,
        predictions.instruction_set,
        predictions.runtime,
    ) == (shard.sha256, manifest.model_sha256, session.instruction_set, session.runtime)


def check_belongs(shard: Shard, manifest: Manifest) -> None:
    """Raise `ShardError` if the shard is empty, or made for other classes or another preprocessing."""
    if len(shard) == 0:
        raise ShardError(f"the shard {shard.path} contains no images.")
    if shard.classes != manifest.classes or shard.preprocessing != manifest.preprocessing:
        raise ShardError(
            f"the shard {shard.path} was made for other classes or another preprocessing than the artifact "
            f"{manifest.name} {manifest.version}. Use the shard next to the artifact."
        )
