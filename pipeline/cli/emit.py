"""`deploy emit`: the file that keeps an image running on its device."""

import difflib
import sys

from pipeline.cli.emit_options import Emission
from pipeline.errors import RecipeError
from pipeline.package.service_files import Form, Service, emit, file_name
from targets.target import catalogue

MEMORY_OF_GPU = 4096
"""MiB: TensorRT asks for gigabytes while it builds."""


def run(image: str, emission: Emission) -> None:
    """Print the file, or write it where `--output` says; the image need not be on this machine."""
    service, form = service_of(image, emission), form_of(emission)
    text = emit(service, form)
    if emission.output is None:
        print(text, end="")
        return
    path = emission.output / file_name(service, form) if emission.output.is_dir() else emission.output
    try:
        path.write_text(text)
    except OSError as error:
        raise RecipeError(f"{path} cannot be written: {error.strerror}. Name another file with --output.") from None
    print(f"wrote {path}", file=sys.stderr)


def form_of(emission: Emission) -> Form:
    """Raises `RecipeError` with the nearest name there is."""
    try:
        return Form(emission.form)
    except ValueError:
        near = difflib.get_close_matches(emission.form, list(Form), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise RecipeError(f"there is no {emission.form!r} to emit. Known: {', '.join(Form)}.{hint}") from None


def service_of(image: str, emission: Emission) -> Service:
    with_gpu = _needs_gpu(image) if emission.with_gpu is None else emission.with_gpu
    usual = MEMORY_OF_GPU if with_gpu else Service.memory_mib
    return Service(
        image=image,
        address=emission.address,
        port=emission.port,
        grpc_port=emission.grpc_port,
        memory_mib=usual if emission.memory_mib is None else emission.memory_mib,
        with_gpu=with_gpu,
    )


def _needs_gpu(image: str) -> bool:
    """By the name of a target that ends the tag, as `deploy build` makes it."""
    return any(image.endswith(f"-{target.name}") for target in catalogue() if target.gpu is not None)
