"""The options of `deploy bench`."""

from typing import Annotated

import typer

from pipeline.cli.options import AsJson


def bench(
    subjects: Annotated[
        list[str], typer.Argument(metavar="ARTIFACT...|IMAGE", help="Artifact folders, ONNX files, or an image's tag.")
    ],
    threads: Annotated[int | None, typer.Option(min=1, help="For artifacts; default: 1.", show_default=False)] = None,
    clients: Annotated[int | None, typer.Option(min=1, help="For an image; default: 8.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Time artifacts against each other by CPU time, or an image as its clients see it; all in one run."""
    from pipeline.cli.bench import run

    run(subjects, threads=threads, clients=clients, as_json=as_json)
