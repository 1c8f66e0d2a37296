"""`deploy emit`: write the file that keeps an image running on its device."""

import difflib
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import EngineMissing, RecipeError

if TYPE_CHECKING:
    from pipeline.package.service_files import Form, Service

PANEL, FORMS = "Operation", "compose|systemd|quadlet"
ADDRESS, PORT, GRPC_PORT = "127.0.0.1", 8000, 0
MEMORY_OF_GPU = 4096
"""MiB: TensorRT needs gigabytes while it builds."""

Output = Annotated[
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
    str, typer.Option("--address", help="Address to listen on; 0.0.0.0: all interfaces.", rich_help_panel=PANEL)
]
Port = Annotated[int, typer.Option("--port", help="Port on the device.", rich_help_panel=PANEL)]
GrpcPort = Annotated[
    int,
    typer.Option(
        "--grpc-port", help="gRPC port on the device (images with --grpc); 0: not published.", rich_help_panel=PANEL
    ),
]
Memory = Annotated[
    int | None,
    typer.Option(
        "--memory",
        help="Memory limit in MiB, swap included; default: 512, with a GPU 4096.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Emission:
    """The request, before it is checked."""

    form: str
    output: Path | None
    address: str
    port: int
    grpc_port: int
    memory_mib: int | None
    with_gpu: bool | None
    """None: by the image's label or target."""


def emit(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image's tag; it need not be on this machine.")],
    form: Annotated[str, typer.Option("--as", metavar=FORMS, help="Format to write.")] = "compose",
    output: Output = None,
    address: Address = ADDRESS,
    port: Port = PORT,
    grpc_port: GrpcPort = GRPC_PORT,
    memory: Memory = None,
    gpu: Annotated[
        bool | None,
        typer.Option(
            "--gpu/--no-gpu",
            help="Add NVIDIA's runtime and a volume for engines; default: by the image's label, or, if the image is "
            "not on this machine, by the target in its tag.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None,
) -> None:
    """Write a file that runs an image on its device: a compose file, a systemd unit or a podman quadlet."""
    emission = Emission(
        form=form, output=output, address=address, port=port, grpc_port=grpc_port, memory_mib=memory, with_gpu=gpu
    )
    write(image, emission)


def write(image: str, emission: Emission) -> None:
    """Print the file, or write it to `--output`; the image need not be on this machine."""
    from pipeline.package.service_files import emit as text_of
    from pipeline.package.service_files import file_name

    service, form = service_of(image, emission), form_of(emission)
    text = text_of(service, form)
    if emission.output is None:
        print(text, end="")
        return
    path = emission.output / file_name(service, form) if emission.output.is_dir() else emission.output
    try:
        path.write_text(text)
    except OSError as error:
        raise RecipeError(f"{path} cannot be written: {error.strerror}. Give another file with --output.") from None
    print(f"wrote {path}", file=sys.stderr)


def form_of(emission: Emission) -> "Form":
    """Return the requested form; raise `RecipeError` with the closest name."""
    from pipeline.package.service_files import Form

    try:
        return Form(emission.form)
    except ValueError:
        near = difflib.get_close_matches(emission.form, list(Form), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise RecipeError(f"{emission.form!r} is not a format to emit. Known: {', '.join(Form)}.{hint}") from None


def service_of(image: str, emission: Emission) -> "Service":
    """Return the service; raise `RecipeError` for wrong options before the engine is asked about the image."""
    from pipeline.package.service_files import Service

    memory = emission.memory_mib
    service = Service(
        image=image,
        address=emission.address,
        port=emission.port,
        grpc_port=emission.grpc_port,
        memory_mib=Service.memory_mib if memory is None else memory,
    )
    with_gpu = _needs_gpu(image) if emission.with_gpu is None else emission.with_gpu
    if not with_gpu:
        return service
    return replace(service, with_gpu=True, memory_mib=MEMORY_OF_GPU if memory is None else memory)


def _needs_gpu(image: str) -> bool:
    """Decide by the image's label; if it cannot be read, by the target in the tag, with a note."""
    from pipeline.package.labels import needs_gpu
    from targets.target import catalogue

    labels, why = _labels_of(image)
    by_label = needs_gpu(labels)
    if by_label is not None:
        return by_label
    # The tag as made by `deploy build`.
    by_tag = any(image.endswith(f"-{target.name}") for target in catalogue() if target.gpu is not None)
    print(
        f"note: {why}. By the target in the tag, {image} needs {'a' if by_tag else 'no'} GPU; override this with "
        "--gpu or --no-gpu.",
        file=sys.stderr,
    )
    return by_tag


def _labels_of(image: str) -> tuple[Mapping[str, str], str]:
    """Return the labels, and the reason if those of `deploy build` are missing."""
    from pipeline.containers.engine import connect

    try:
        with closing(connect()) as engine:
            labels = engine.labels_of(image)
    except EngineMissing:
        return {}, "no Docker engine answers, so the image's label cannot be read"
    if labels is None:
        return {}, "the image is not on this machine, so its label cannot be read"
    return labels, "the image has no label from `deploy build`"
