"""The options of `deploy train`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options as o


def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write (.safetensors).")],
    data: Annotated[str, typer.Option(help="Folder or zip, cifar10:PATH, wider-face:PATH, digits.")] = "digits",
    network: Annotated[str, typer.Option(help="resnet8 … 110 (32 px), resnet18 … 152 (224 px).")] = "resnet8",
    checkpoint: Annotated[Path | None, typer.Option(help="Fine-tune this one instead of starting anew.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default=False)] = None,
    batch_size: Annotated[int, typer.Option(min=2)] = 64,
    nproc: Annotated[int, typer.Option(min=1, help="Processes that train together on this machine.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    verbose: o.Verbose = False,
) -> None:
    """Train a float ResNet from scratch, or fine-tune one.

    Until it is done the training is kept in OUTPUT.training after every epoch; the same command goes on from there.
    On several machines start it by torchrun on each: torchrun --nnodes 2 … --no-python deploy train …
    """
    from pipeline.cli.train import run

    run(
        output=output,
        data=data,
        network=network,
        checkpoint=checkpoint,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        processes=nproc,
        seed=seed,
        is_verbose=verbose,
    )
