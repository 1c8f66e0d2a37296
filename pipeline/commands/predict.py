"""`deploy predict`: class and score of photos."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.console import progress_for
from pipeline.errors import DataError
from pipeline.printable import say
from pipeline.subject import answering
from targets.device.image_files import ImageError, decode
from targets.device.manifest import Manifest
from targets.device.preprocess import Preprocessing, preprocess


def run(name: str, photos: list[Path], *, top: int, as_json: bool) -> None:
    """Print the `top` classes of each photo with their softmax scores."""
    progress = progress_for(is_verbose=False)
    with answering(name, progress=progress) as subject:
        manifest = subject.manifest
        logits = [subject.session.infer(_input(photo, manifest)[None])[0] for photo in photos]
    answers = [(photo, ranked(row, manifest.classes, top)) for photo, row in zip(photos, logits, strict=True)]
    if as_json:
        document = [
            {"photo": str(photo), "classes": [{"class": name, "score": score} for name, score in classes]}
            for photo, classes in answers
        ]
        print(json.dumps(document, indent=2))
        return
    for photo, classes in answers:
        say(f"{photo}: {', '.join(f'{name} {score:.1%}' for name, score in classes)}")


def _input(photo: Path, manifest: Manifest) -> NDArray[np.float32]:
    image = read(photo, manifest.preprocessing)
    if image.shape != manifest.input_shape:
        # Without a crop the photo's own size decides.
        (height, width), (wanted_height, wanted_width) = image.shape[1:], manifest.input_shape[1:]
        raise DataError(
            f"{photo} is {width} x {height} when it reaches the model, which takes {wanted_width} x {wanted_height} "
            "and was built without a crop. Give photos of that size."
        )
    return image


def read(photo: Path, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """The network's input [3, H, W] of an image file; raises `DataError` with its name."""
    try:
        return preprocess(decode(photo.read_bytes(), shorter_side=preprocessing.shorter_side), preprocessing)
    except OSError as error:
        raise DataError(f"{photo} cannot be read: {error.strerror}.") from None
    except ImageError as error:
        raise DataError(f"{photo} cannot be used: {error}.") from None


def ranked(logits: NDArray[np.float32], classes: tuple[str, ...], top: int) -> list[tuple[str, float]]:
    """The `top` classes by softmax score, best first."""
    powers = np.exp(logits - logits.max())
    scores = powers / powers.sum()
    return [(classes[index], float(scores[index])) for index in np.argsort(-scores, kind="stable")[:top]]
