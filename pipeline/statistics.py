"""Whether a set of images can prove anything: too few for the margin, or a float model that only guesses."""

import math

from pipeline.errors import DataError
from targets.device.tango import images_needed

# Significance at which a float model counts as better than guessing, and the images from which it is asked to be.
CHANCE_SIGNIFICANCE = 0.001
CHANCE_IMAGES = 30
# An unpruned int8 network changes about this share of right to wrong and wrong to right together.
USUAL_DISCORDANCE = 0.02


def too_small_warning(images: int, max_drop_points: float) -> str | None:
    """What to tell before hours of training where the gate has too few images to pass anything, or nearly so."""
    margin = max_drop_points / 100
    unchanged = images_needed(0, 0, 1, margin=margin)
    usual = images_needed(USUAL_DISCORDANCE / 2, USUAL_DISCORDANCE / 2, 1, margin=margin)
    if unchanged is None or usual is None:
        return (
            f"a maximal drop of {_points(max_drop_points)} asks for an artifact that is measurably better than the "
            "float model; one that is just as good stays undecided. Allow some loss with --max-drop."
        )
    if images >= usual:
        return None
    verdict = "too few" if images < unchanged else "few"
    return (
        f"the gate has {images} images, {verdict} for a maximal drop of {_points(max_drop_points)}: to prove it takes "
        f"{unchanged} even if no prediction changes, and {usual} for an even chance if "
        f"{100 * USUAL_DISCORDANCE:g} % of them turn from right to wrong or back. "
        "Add images, or allow more with --max-drop."
    )


def check_above_chance(top1: float, *, classes: int, images: int) -> None:
    """Raise `DataError` where the float model does no better than guessing: then something before it is wrong."""
    if images < CHANCE_IMAGES or classes < 2:
        return
    if _binomial_tail(round(top1 * images), images, 1 / classes) > CHANCE_SIGNIFICANCE:
        raise DataError(
            f"the float model has {100 * top1:.2f} % of {images} images right; guessing among {classes} classes would "
            f"have {100 / classes:.2f} %. A trained model does better: suspect the preprocessing (mean, std, color, "
            "resize and crop as in training: [preprocessing] in deploy.toml) or the order of the classes "
            "(classes = [...] in training order; the default is alphabetical)."
        )


def _binomial_tail(at_least: int, trials: int, probability: float) -> float:
    if at_least <= 0 or probability >= 1:
        return 1.0
    terms = (_log_binomial(count, trials, probability) for count in range(at_least, trials + 1))
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def _log_binomial(count: int, trials: int, probability: float) -> float:
    choices = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    return choices + count * math.log(probability) + (trials - count) * math.log1p(-probability)


def _points(value: float) -> str:
    return f"{value:g} point{'' if value == 1 else 's'}"
