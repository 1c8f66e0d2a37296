"""Stage `load` in the workspace."""

from pathlib import Path

from pipeline.errors import RecipeError
from pipeline.models.digests import digest_of_checkpoint, digest_of_factory
from pipeline.results import Loaded
from pipeline.run import Run
from pipeline.workplace import Workplace
from pipeline.workspace.hashing import Json


def load(run: Run) -> Loaded:
    """Return the loaded checkpoint, checked to be the network the user means."""
    recipe = run.recipe
    if recipe.checkpoint is None:
        raise RecipeError("no checkpoint: give --checkpoint FILE, or train one first with `deploy train`.")
    source = Path(recipe.checkpoint)
    inputs = {"checkpoint": digest_of_checkpoint(source)} | run.with_data()
    if recipe.model is not None:
        inputs["model"] = digest_of_factory(recipe.model)
    settings: dict[str, Json] = {
        "model": recipe.model,
        "classes": list(recipe.classes),
        "weights": recipe.weights,
        "preprocessing": recipe.preprocessing.model_dump(mode="json"),
    }

    def work(at: Workplace) -> None:
        from pipeline.load.load import load as load_checkpoint

        load_checkpoint(
            source,
            factory=recipe.model,
            dataset=run.dataset,
            preprocessing=recipe.preprocessing,
            weights=recipe.weights,
            progress=at.progress,
            folder=at.folder,
        )

    found = run.obtain("load", code="pipeline.load.load", inputs=inputs, settings=settings, work=work)
    return Loaded(folder=found)
