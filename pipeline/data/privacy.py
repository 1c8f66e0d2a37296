"""Data that shows people: what leaves the workspace, said before anything is done."""

from collections.abc import Sequence

from pipeline.data.readers import Dataset
from pipeline.errors import RecipeError
from pipeline.recipe import Recipe
from targets.target import Target


def personal_warning(dataset: Dataset, recipe: Recipe, targets: Sequence[Target]) -> str | None:
    """What to tell of the gate's images; raises `RecipeError` for an image that cannot be proven without them."""
    if not dataset.gate.is_personal:
        return None
    with_engine = [target.name for target in targets if target.gpu is not None]
    if recipe.package.personal_images:
        images = f", and into images for {', '.join(with_engine)}" if with_engine else ""
        return f"{dataset.name} shows people. As asked, its gate's images go into the artifact's folder{images}."
    if with_engine and recipe.package.image:
        raise RecipeError(
            f"{dataset.name} shows people, and an image for {', '.join(with_engine)} holds the gate's images, which "
            "judge its engine where that is built. Allow it with --personal-images (package.personal_images), or end "
            "with the proof here by --no-image."
        )
    return (
        f"{dataset.name} shows people: the gate's images stay in the workspace's folder private, apart from the "
        "artifact and from images, whose golden inputs are drawn. --personal-images publishes them."
    )


def check_sending(dataset: Dataset, recipe: Recipe) -> None:
    """Raise `RecipeError` where a device would be sent the gate's images and nobody has allowed it."""
    if dataset.gate.is_personal and not recipe.package.personal_images:
        raise RecipeError(
            f"{dataset.name} shows people, and --device sends the gate's images there, which the image is proven "
            "with. Allow it with --personal-images (package.personal_images)."
        )
