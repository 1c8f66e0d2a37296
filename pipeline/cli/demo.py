"""`deploy demo`: a complete build on embedded data, up to a running container."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.request import WORKSPACE, Request
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from pipeline.data.readers import Dataset

NAME = "digits"
CONTAINER = "edge-deploy-demo"
NETWORK, TRAINING_EPOCHS = "resnet8", 15
RECIPE = """\
# Written by `deploy demo`: a ResNet-8 for handwritten digits, pruned to 80 % of its work, in int8.
name = "{name}"
checkpoint = "digits.safetensors"
data = "digits"

[prune]
macs = 0.8
epochs = 8

[quantize]
qat_epochs = 2
"""


def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its files.")] = Path("edge-deploy-demo"),
    name: Annotated[str, typer.Option(help="The image's name; use another name to keep a running demo.")] = NAME,
    base_image: o.BaseImage = None,
    image: o.WithImage = True,
    verbose: o.Verbose = False,
) -> None:
    """Train a small ResNet on embedded digits, build its image, start it and ask it a question."""
    from pipeline.cli.build import build_all
    from pipeline.cli.console import progress_for
    from pipeline.data.readers import open_dataset

    progress = progress_for(is_verbose=verbose)
    recipe, checkpoint = folder / "deploy.toml", folder / "digits.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        recipe.write_text(RECIPE.format(name=name))
    except OSError as error:
        raise RecipeError(f"{folder} cannot be written: {error.strerror}. Give another with --folder.") from None
    dataset = open_dataset("digits")
    # Finished work is reused.
    if checkpoint.exists():
        progress.line(f"{checkpoint} was trained before")
    else:
        progress.line(f"training {NETWORK} on {len(dataset.training)} handwritten digits from scikit-learn")
        _train(checkpoint, dataset, is_verbose=verbose)
    flags: dict[str, object] = {"package.base_image": base_image, "package.image": bool(image)}
    request = Request(recipe_file=recipe, flags=flags, workspace=folder / WORKSPACE, as_json=False, is_verbose=verbose)
    progress.line(f"deploy build --recipe {shlex.quote(str(recipe))}")
    build_all(request, until=None)
    if image:
        _ask(dataset, folder, name, is_verbose=verbose)


def _train(checkpoint: Path, dataset: "Dataset", *, is_verbose: bool) -> None:
    from pipeline.cli.console import progress_for
    from pipeline.recipe import PreprocessingRecipe
    from pipeline.training.train import TrainSettings, train

    train(
        dataset,
        TrainSettings(
            preprocessing=PreprocessingRecipe(),
            network=NETWORK,
            checkpoint=None,
            epochs=TRAINING_EPOCHS,
            learning_rate=None,
            batch_size=64,
            seed=0,
        ),
        progress=progress_for(is_verbose=is_verbose),
        output=checkpoint,
    )


def _ask(dataset: "Dataset", folder: Path, name: str, *, is_verbose: bool) -> None:
    """Start the container, send it one of the gate's digits, and print the next commands."""
    from pipeline.cli.console import progress_for
    from pipeline.cli.predict import rank_classes, read
    from pipeline.containers.container import running
    from pipeline.containers.engine import connect

    photo, tag = folder / "digit.png", f"{name}:0.1.0-cpu"
    container = CONTAINER if name == NAME else f"{CONTAINER}-{name}"
    photo.write_bytes(dataset.gate.encoded(0))
    label = dataset.classes[int(dataset.gate.labels[0])]
    engine = connect()
    with running(engine, tag, progress=progress_for(is_verbose=is_verbose), stay_as=container) as client:
        image = read(photo, client.manifest.preprocessing)[None]
        ((answer, score),) = rank_classes(client.infer(image)[0], client.manifest.classes, 1)
        request = {
            "inputs": [
                {"name": "images", "shape": list(image.shape), "datatype": "FP32", "data": image.ravel().tolist()}
            ]
        }
        (folder / "request.json").write_text(json.dumps(request))
        url = client.url
    engine.close()
    print(
        f"the container {container} answers at {url}: {photo} is a {answer} ({score:.1%}); it is a {label}\n"
        f"  ask it:   curl {url}/v2/models/{name}/infer -d @{folder / 'request.json'}\n"
        f"  or:       deploy predict {tag} {photo}\n"
        f"  stop it:  docker rm -f {container}"
    )
