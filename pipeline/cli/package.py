"""`deploy package`: all of a build, and what keeps its image running on the device."""

from dataclasses import replace

from pipeline.cli.build import run as build
from pipeline.cli.emit import form_of, service_of
from pipeline.cli.emit import run as emit
from pipeline.cli.emit_options import Emission
from pipeline.cli.options import Request
from pipeline.errors import RecipeError
from pipeline.package.build_context import GRPC_PORT
from pipeline.recipe import read_recipe


def run(request: Request, emission: Emission | None) -> None:
    """Build the image; with `emission` write the file that runs it, too."""
    if emission is None:
        build(request, until="package")
        return
    # A wrong option shall not come to light after hours of training.
    form_of(emission)
    _check_one_image(request, emission)
    emission = _with_grpc(request, emission)
    service_of("model:0.1.0-cpu", emission)
    (outcome,) = build(request, until="package", with_summary=emission.output is not None)
    recipe, target = read_recipe(request.existing_recipe_file, request.flags), outcome.target
    # Where a TensorRT target's base image is elsewhere, the image will be built there under the same name.
    emit(f"{recipe.name}:{recipe.version}-{target.name}", replace(emission, with_gpu=target.gpu is not None))


def _with_grpc(request: Request, emission: Emission) -> Emission:
    """Published where the image has it, on the same port as in the container unless another one is named."""
    has_grpc = read_recipe(request.existing_recipe_file, request.flags).package.grpc
    if emission.grpc_port and not has_grpc:
        raise RecipeError(
            f"--grpc-port {emission.grpc_port} needs an image with gRPC: add --grpc (package.grpc in the recipe)."
        )
    return replace(emission, grpc_port=emission.grpc_port or GRPC_PORT) if has_grpc else emission


def _check_one_image(request: Request, emission: Emission) -> None:
    if request.as_json and emission.output is None:
        raise RecipeError("--json and --emit both write to stdout: give --output FILE.")
    recipe = read_recipe(request.existing_recipe_file, request.flags)
    if len(set(recipe.targets)) > 1:
        raise RecipeError(
            f"--emit is for one image, and there are {len(set(recipe.targets))} targets. Build first, then "
            f"deploy emit IMAGE --as {emission.form} for each."
        )
    if not recipe.package.image:
        raise RecipeError(
            f"--emit {emission.form} needs an image: leave out --no-image (package.image in the recipe)."
        )
