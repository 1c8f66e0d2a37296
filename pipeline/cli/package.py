"""`deploy package`: a complete build, and the file that keeps its image running on the device."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.build import build_all, refusal_as_document
from pipeline.cli.emit import (
    ADDRESS,
    FORMS,
    GRPC_PORT,
    PANEL,
    PORT,
    Address,
    Emission,
    GrpcPort,
    Memory,
    Output,
    Port,
    form_of,
    service_of,
    write,
)
from pipeline.cli.request import Request, request_of
from pipeline.errors import RecipeError


def package(
    ctx: typer.Context,
    emit: Annotated[
        str | None,
        typer.Option(
            "--emit", metavar=FORMS, help="Also write a file that runs the image on its device.", rich_help_panel=PANEL
        ),
    ] = None,
    output: Output = None,
    address: Address = ADDRESS,
    port: Port = PORT,
    grpc_port: GrpcPort = GRPC_PORT,
    memory: Memory = None,
) -> None:
    """Build the image, and write the file that runs it."""
    request = request_of(ctx)
    if emit is None:
        with refusal_as_document(request):
            _check_no_emission(output, address, port, grpc_port, memory)
        build_all(request, until="package")
        return
    emission = Emission(
        form=emit, output=output, address=address, port=port, grpc_port=grpc_port, memory_mib=memory, with_gpu=False
    )
    _build_and_emit(request, emission)


def _check_no_emission(output: Path | None, address: str, port: int, grpc_port: int, memory: int | None) -> None:
    if (output, address, port, grpc_port, memory) != (None, ADDRESS, PORT, GRPC_PORT, None):
        raise RecipeError(
            f"--output, --address, --port, --grpc-port and --memory belong to --emit: add --emit {FORMS}."
        )


def _build_and_emit(request: Request, emission: Emission) -> None:
    # Find a wrong option before hours of training.
    with refusal_as_document(request):
        form_of(emission)
        _check_one_image(request, emission)
        emission = _with_grpc(request, emission)
        service_of("model:0.1.0-cpu", emission)
    (outcome,) = build_all(request, until="package", with_summary=emission.output is not None)
    recipe, target = request.recipe, outcome.target
    # If a TensorRT target's base image is not here, the image will be built on the device under the same name.
    write(f"{recipe.name}:{recipe.version}-{target.name}", replace(emission, with_gpu=target.gpu is not None))


def _with_grpc(request: Request, emission: Emission) -> Emission:
    """Publish gRPC if the image has it, on the container's port unless another one is given."""
    from pipeline.package.build_context import GRPC_PORT as SAME_PORT

    has_grpc = request.recipe.package.grpc
    if emission.grpc_port and not has_grpc:
        raise RecipeError(
            f"--grpc-port {emission.grpc_port} needs an image with gRPC: add --grpc (package.grpc in the recipe)."
        )
    return replace(emission, grpc_port=emission.grpc_port or SAME_PORT) if has_grpc else emission


def _check_one_image(request: Request, emission: Emission) -> None:
    if request.as_json and emission.output is None:
        raise RecipeError("--json and --emit both write to stdout: give --output FILE.")
    targets = set(request.recipe.targets)
    if len(targets) > 1:
        raise RecipeError(
            f"--emit is for one image, but there are {len(targets)} targets. Build first, then run "
            f"deploy emit IMAGE --as {emission.form} for each."
        )
    if not request.recipe.package.image:
        raise RecipeError(f"--emit {emission.form} needs an image: remove --no-image (package.image in the recipe).")
