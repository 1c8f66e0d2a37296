"""`deploy predict`: classify photos."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import AsJson
from pipeline.cli.output import say
from pipeline.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from targets.device.model.manifest import Manifest
    from targets.device.model.preprocess import Preprocessing


def predict(
    subject: Annotated[str, typer.Argument(metavar="ARTIFACT|IMAGE", help="An artifact folder or an image's tag.")],
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="Number of classes to print.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Classify photos: class and score."""
    from pipeline.cli.console import progress_for
    from pipeline.cli.subject import open_subject

    progress = progress_for(is_verbose=False)
    with open_subject(subject, progress=progress) as found:
        manifest = found.manifest
        logits = [found.session.infer(_input(photo, manifest)[None])[0] for photo in photos]
    answers = [(photo, rank_classes(row, manifest.classes, top)) for photo, row in zip(photos, logits, strict=True)]
    if as_json:
        document = [
            {"photo": str(photo), "classes": [{"class": name, "score": score} for name, score in classes]}
            for photo, classes in answers
        ]
        print(json.dumps(document, indent=2))
        return
    for photo, classes in answers:
        say(f"{photo}: {', '.join(f'{name} {score:.1%}' for name, score in classes)}")


def _input(photo: Path, manifest: "Manifest") -> "NDArray[np.float32]":
    image = read(photo, manifest.preprocessing)
    if image.shape != manifest.input_shape:
        # Without a crop the input size is the photo's own.
        (height, width), (wanted_height, wanted_width) = image.shape[1:], manifest.input_shape[1:]
        raise DataError(
            f"{photo} is {width} x {height} after preprocessing, but the model takes {wanted_width} x {wanted_height} "
            "and was built without a crop. Give photos of that size."
        )
    return image


def read(photo: Path, preprocessing: "Preprocessing") -> "NDArray[np.float32]":
    """Return an image file as network input [3, H, W]; raise `DataError` with the file's name."""
    from targets.device.model.image_files import ImageError, decode
    from targets.device.model.preprocess import preprocess

    try:
        return preprocess(decode(photo.read_bytes(), shorter_side=preprocessing.shorter_side), preprocessing)
    except OSError as error:
        raise DataError(f"{photo} cannot be read: {error.strerror}.") from None
    except ImageError as error:
        raise DataError(f"{photo} cannot be used: {error}.") from None


def rank_classes(logits: "NDArray[np.float32]", classes: tuple[str, ...], top: int) -> list[tuple[str, float]]:
    """Return the `top` classes by softmax score, best first."""
    import numpy as np

    powers = np.exp(logits - logits.max())
    scores = powers / powers.sum()
    return [(classes[index], float(scores[index])) for index in np.argsort(-scores, kind="stable")[:top]]
