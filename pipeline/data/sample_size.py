"""Whether a set of images can prove anything: too few for the margin, or a float model that only guesses."""

import math
from statistics import NormalDist

from pipeline.errors import DataError
from targets.device.gate.tango import images_needed

CHANCE_SIGNIFICANCE = 0.05
"""At which a float model counts as better than guessing, by the exact binomial test."""
EXPECTED_MARGIN = 0.005
"""By which a float model may be worse than expected beside chance: figures are rounded, decoders differ."""
ONE_SIDED = NormalDist().inv_cdf(0.95)
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


def check_above_chance(right: int, *, classes: int, images: int) -> None:
    """Raise `DataError` where the float model does no better than guessing: then something before it is wrong.

    And where the images are so few that not even all of them right would tell it from guessing.
    """
    if classes < 2:
        return
    needed = math.floor(math.log(CHANCE_SIGNIFICANCE) / math.log(1 / classes)) + 1
    if images < needed:
        raise DataError(
            f"the gate has {images} image{'' if images == 1 else 's'}: even with all of them right a model could be "
            f"guessing among {classes} classes. It takes {needed} at least, and hundreds to prove a small drop. "
            "Add images to val/."
        )
    if _binomial_tail(right, images, 1 / classes) >= CHANCE_SIGNIFICANCE:
        raise DataError(
            f"the float model has {right} of {images} images right ({right / images:.2%}); guessing among {classes} "
            f"classes would have {1 / classes:.2%}, and this is not more by the binomial test. A trained model does "
            "better: suspect the preprocessing (mean, std, color, resize and crop as in training: [preprocessing] in "
            "deploy.toml) or the order of the classes (classes = [...] in training order; the default is "
            "alphabetical)."
        )


def detectable_loss(images: int, expected: float) -> float:
    """The smallest loss against an `expected` share of right answers that stops a build, as a share.

    Half a point, and what chance does to that many images in one case of twenty.
    """
    least = max(0.0, expected - EXPECTED_MARGIN)
    return EXPECTED_MARGIN + ONE_SIDED * math.sqrt(least * (1 - least) / images)


def check_expected(right: int, *, images: int, expected: float, source: str = "expected_accuracy") -> None:
    """Raise `DataError` where the float model has fewer right answers than whoever trained it says it has."""
    loss = detectable_loss(images, expected)
    if right / images < expected - loss:
        raise DataError(
            f"the float model has {right} of {images} images right ({right / images:.2%}); {expected:.2%} are "
            f"expected ({source}), and chance explains a loss of {100 * loss:.1f} points at most on so many "
            "images. So it is not computed as it was trained: suspect the preprocessing, the order of the classes, "
            "what is assumed of the network (see above), or other images than those of the expected figure. If these "
            "are others, state what it has on them: --expect-accuracy."
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
