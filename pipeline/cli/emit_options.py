"""The options of what runs an image on its device, for `deploy package` and `deploy emit`."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import Request
from pipeline.errors import RecipeError

PANEL, FORMS = "Operation", "compose|systemd|quadlet"
ADDRESS, PORT, GRPC_PORT = "127.0.0.1", 8000, 0

Emit = Annotated[
    str | None,
    typer.Option("--emit", metavar=FORMS, help="Write what runs the image on its device, too.", rich_help_panel=PANEL),
]
EmitTo = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="A file, or a folder for the usual name; default: stdout.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
Address = Annotated[
    str, typer.Option("--address", help="Where it listens on the device; 0.0.0.0: everywhere.", rich_help_panel=PANEL)
]
Port = Annotated[int, typer.Option("--port", help="On the device.", rich_help_panel=PANEL)]
GrpcPort = Annotated[
    int,
    typer.Option(
        "--grpc-port", help="On the device, of an image built with --grpc; 0: not reachable.", rich_help_panel=PANEL
    ),
]
Memory = Annotated[
    int | None,
    typer.Option(
        "--memory",
        help="Its limit in MiB, swap included; default: 512, with a GPU 4096.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
WithGpu = Annotated[
    bool | None,
    typer.Option(
        "--gpu/--no-gpu",
        help="Give it NVIDIA's runtime and a volume for engines; default: as the target in the tag needs it.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
ImageTag = Annotated[str, typer.Argument(metavar="IMAGE", help="An image's tag; it need not be on this machine.")]


@dataclass(frozen=True, kw_only=True)
class Emission:
    """What was asked for, before it is checked."""

    form: str
    output: Path | None
    address: str
    port: int
    grpc_port: int
    memory_mib: int | None
    with_gpu: bool | None


def emit(
    image: ImageTag,
    form: Annotated[str, typer.Option("--as", metavar=FORMS, help="What shall run it.")] = "compose",
    output: EmitTo = None,
    address: Address = ADDRESS,
    port: Port = PORT,
    grpc_port: GrpcPort = GRPC_PORT,
    memory: Memory = None,
    gpu: WithGpu = None,
) -> None:
    """Write what runs an image on its device: a compose file, a systemd unit or a podman quadlet."""
    from pipeline.cli.emit import run

    asked = Emission(
        form=form,
        output=output,
        address=address,
        port=port,
        grpc_port=grpc_port,
        memory_mib=memory,
        with_gpu=gpu,
    )
    run(image, asked)


def with_emission(with_recipe: Callable[[Callable[[Request], None]], Callable[..., None]]) -> Callable[..., None]:
    """`deploy package`: `with_recipe` makes a command that takes every option of the recipe; it gets ours besides."""

    def package(
        emit: Emit = None,
        output: EmitTo = None,
        address: Address = ADDRESS,
        port: Port = PORT,
        grpc_port: GrpcPort = GRPC_PORT,
        memory: Memory = None,
        **of_recipe: object,
    ) -> None:
        given = (output, address, port, grpc_port, memory)
        if emit is None and given != (None, ADDRESS, PORT, GRPC_PORT, None):
            raise RecipeError(
                f"--output, --address, --port, --grpc-port and --memory are of what --emit writes: add --emit {FORMS}."
            )

        def act(request: Request) -> None:
            from pipeline.cli.package import run

            emission = None
            if emit is not None:
                emission = Emission(
                    form=emit,
                    output=output,
                    address=address,
                    port=port,
                    grpc_port=grpc_port,
                    memory_mib=memory,
                    with_gpu=None,
                )
            run(request, emission)

        with_recipe(act)(**of_recipe)

    # Typer reads the options off the signature.
    recipe = inspect.signature(with_recipe(lambda _request: None))
    *own, _of_recipe = inspect.signature(package).parameters.values()
    merged = [*recipe.parameters.values(), *own]
    package.__signature__ = recipe.replace(parameters=merged)  # type: ignore[attr-defined]
    package.__annotations__ = {each.name: each.annotation for each in merged}
    return package
