"""Photos of people leave the workspace only where that was asked for: what is told, what is refused."""

import pytest
from tiny_wider_face import write_tiny_wider_face

from pipeline.data.privacy import check_sending, personal_warning
from pipeline.data.readers import Dataset, open_dataset
from pipeline.errors import RecipeError
from pipeline.recipe import PackageRecipe, Recipe
from targets.target import find_target

CPU, JETSON = find_target("cpu"), find_target("orin-jp61")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(f"wider-face:{write_tiny_wider_face(tmp_path_factory.mktemp('wider'))}")


def recipe(*, allowed: bool = False, image: bool = True) -> Recipe:
    return Recipe(package=PackageRecipe(personal_images=allowed, image=image))


def test_other_data_is_not_spoken_of() -> None:
    assert personal_warning(open_dataset("digits"), recipe(), (CPU, JETSON)) is None


def test_the_gate_s_images_stay_unless_asked_for(faces: Dataset) -> None:
    stays = personal_warning(faces, recipe(), (CPU,))
    assert stays is not None
    assert "stay in the workspace" in stays
    goes = personal_warning(faces, recipe(allowed=True), (CPU, JETSON))
    assert goes is not None
    assert "go into the artifact's folder, and into images for orin-jp61" in goes


def test_an_image_that_is_proven_with_the_gate_s_images_has_to_be_allowed(faces: Dataset) -> None:
    with pytest.raises(RecipeError, match=r"orin-jp61.*--personal-images"):
        personal_warning(faces, recipe(), (CPU, JETSON))
    assert personal_warning(faces, recipe(image=False), (CPU, JETSON)) is not None


def test_a_device_is_sent_the_gate_s_images_only_if_that_is_allowed(faces: Dataset) -> None:
    with pytest.raises(RecipeError, match=r"--device sends the gate's images to the device.*--personal-images"):
        check_sending(faces, recipe())
    check_sending(faces, recipe(allowed=True))
    check_sending(open_dataset("digits"), recipe())
