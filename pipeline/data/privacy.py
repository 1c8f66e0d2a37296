"""Data that shows people: warn before it leaves the workspace."""

from collections.abc import Sequence

from pipeline.data.readers import Dataset
from pipeline.errors import RecipeError
from pipeline.recipe import Recipe
from targets.target import Target


def personal_warning(dataset: Dataset, recipe: Recipe, targets: Sequence[Target]) -> str | None:
    """Return a warning about the gate's images; raise `RecipeError` if an image needs them without permission."""
    if not dataset.gate.is_personal:
        return None
    with_engine = [target.name for target in targets if target.gpu is not None]
    if recipe.package.personal_images:
        images = f", and into images for {', '.join(with_engine)}" if with_engine else ""
        return f"{dataset.name} shows people. As requested, its gate images go into the artifact's folder{images}."
    if with_engine and recipe.package.image:
        raise RecipeError(
            f"{dataset.name} shows people, and an image for {', '.join(with_engine)} contains the gate's images, "
            "which judge its engine on the device. Allow it with --personal-images (package.personal_images), or stop "
            "after the proof here with --no-image."
        )
    return (
        f"{dataset.name} shows people: the gate's images stay in the workspace's folder private, and are not copied "
        "to the artifact or to images, whose golden inputs are drawings. --personal-images publishes them."
    )


def check_sending(dataset: Dataset, recipe: Recipe) -> None:
    """Raise `RecipeError` if the gate's images would be sent to a device without permission."""
    if dataset.gate.is_personal and not recipe.package.personal_images:
        raise RecipeError(
            f"{dataset.name} shows people, and --device sends the gate's images to the device, to prove the image "
            "there. Allow it with --personal-images (package.personal_images)."
        )
