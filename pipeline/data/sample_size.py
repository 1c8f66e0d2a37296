"""Whether a set of images can prove anything: too few for the margin, or a float model at chance level."""

import math
from statistics import NormalDist

from pipeline.errors import DataError
from targets.device.gate.tango import images_needed

CHANCE_SIGNIFICANCE = 0.05
"""Significance level of the exact binomial test of a float model against guessing."""
EXPECTED_MARGIN = 0.005
"""Allowed difference from the expected accuracy besides chance: figures are rounded, decoders differ."""
ONE_SIDED = NormalDist().inv_cdf(0.95)
# In an unpruned int8 network about this share of answers changes from right to wrong or back.
USUAL_DISCORDANCE = 0.02


def too_small_warning(images: int, max_drop_points: float) -> str | None:
    """Return a warning, before hours of training, if the gate has too few images to pass, or nearly so."""
    margin = max_drop_points / 100
    unchanged = images_needed(0, 0, 1, margin=margin)
    usual = images_needed(USUAL_DISCORDANCE / 2, USUAL_DISCORDANCE / 2, 1, margin=margin)
    if unchanged is None or usual is None:
        return (
            f"a maximal drop of {_points(max_drop_points)} needs an artifact that is measurably better than the "
            "float model; an equally good one stays undecided. Allow some loss with --max-drop."
        )
    if images >= usual:
        return None
    verdict = "too few" if images < unchanged else "few"
    return (
        f"the gate has {images} images, {verdict} for a maximal drop of {_points(max_drop_points)}: a proof needs "
        f"{unchanged} even if no prediction changes, and {usual} for an even chance if "
        f"{100 * USUAL_DISCORDANCE:g} % of them change from right to wrong or back. "
        "Add images, or allow more with --max-drop."
    )


def check_above_chance(right: int, *, classes: int, images: int) -> None:
    """Raise `DataError` if the float model is no better than guessing: its setup is wrong.

    Also if there are so few images that even all of them correct would not differ from guessing.
    """
    if classes < 2:
        return
    needed = math.floor(math.log(CHANCE_SIGNIFICANCE) / math.log(1 / classes)) + 1
    if images < needed:
        raise DataError(
            f"the gate has {images} image{'' if images == 1 else 's'}: even with all of them correct a model could be "
            f"guessing among {classes} classes. At least {needed} are needed, and hundreds to prove a small drop. "
            "Add images to val/."
        )
    if _binomial_tail(right, images, 1 / classes) >= CHANCE_SIGNIFICANCE:
        raise DataError(
            f"the float model has {right} of {images} images correct ({right / images:.2%}); guessing among {classes} "
            f"classes gives {1 / classes:.2%}, and this is not better by the binomial test. A trained model is "
            "better: check the preprocessing (mean, std, color, resize and crop as in training: [preprocessing] in "
            "deploy.toml) and the order of the classes (classes = [...] in training order; the default is "
            "alphabetical)."
        )


def detectable_loss(images: int, expected: float) -> float:
    """Return the smallest loss against an `expected` accuracy that stops a build, as a share.

    Half a point, plus the loss that chance causes on that many images in one case of twenty.
    """
    least = max(0.0, expected - EXPECTED_MARGIN)
    return EXPECTED_MARGIN + ONE_SIDED * math.sqrt(least * (1 - least) / images)


def check_expected(right: int, *, images: int, expected: float, source: str = "expected_accuracy") -> None:
    """Raise `DataError` if the float model is less accurate than stated by whoever trained it."""
    loss = detectable_loss(images, expected)
    if right / images < expected - loss:
        raise DataError(
            f"the float model has {right} of {images} images correct ({right / images:.2%}); {expected:.2%} are "
            f"expected ({source}), and chance explains a loss of at most {100 * loss:.1f} points on that many "
            "images. So it does not run as it was trained: check the preprocessing, the order of the classes, "
            "the assumptions about the network (see above), and whether the expected figure is for these images. If "
            "it is for others, give its accuracy on these: --expect-accuracy."
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
