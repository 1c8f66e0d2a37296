"""`deploy train`: train a float checkpoint for `deploy build`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.option_table import TableCommand


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of `deploy train`."""

    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write (.safetensors).")]
    data: Annotated[str, typer.Option(help="Folder or zip, cifar10:PATH, wider-face:PATH, digits.")] = "digits"
    network: Annotated[str, typer.Option(help="resnet8 … 110 (32 px), resnet18 … 152 (224 px).")] = "resnet8"
    checkpoint: Annotated[Path | None, typer.Option(help="Fine-tune this instead of training from scratch.")] = None
    epochs: Annotated[int, typer.Option(min=1)] = 10
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default=False)] = None
    batch_size: Annotated[int, typer.Option(min=2)] = 64
    nproc: Annotated[int, typer.Option(min=1, help="Training processes on this machine.")] = 1
    seed: Annotated[int, typer.Option(min=0)] = 0
    verbose: o.Verbose = False


class TrainCommand(TableCommand):
    """A command with the options of `deploy train`."""

    table = TrainOptions


def train(ctx: typer.Context) -> None:
    """Train a float ResNet from scratch, or fine-tune one.

    The training is saved in OUTPUT.training after every epoch until it is done; run the same command to resume.
    For several machines start it with torchrun on each: torchrun --nnodes 2 … --no-python deploy train …
    """
    from pipeline.cli.console import progress_for
    from pipeline.data.readers import open_dataset
    from pipeline.progress import Silent
    from pipeline.recipe import PreprocessingRecipe
    from pipeline.training.torchrun import is_first, refuse_torchrun

    options = ctx.obj
    assert isinstance(options, TrainOptions), "not the context of a TrainCommand"
    if options.nproc > 1:
        refuse_torchrun("it has already started the processes; leave out --nproc.")
    progress = progress_for(is_verbose=options.verbose) if is_first() else Silent()
    dataset = open_dataset(options.data, seed=options.seed, progress=progress)
    for note in dataset.notes:
        progress.line(f"note: {note}")

    # After the data is checked: this imports PyTorch.
    from pipeline.training.train import TrainSettings
    from pipeline.training.train import train as fit

    trained = fit(
        dataset,
        TrainSettings(
            preprocessing=PreprocessingRecipe(),
            network=options.network,
            checkpoint=options.checkpoint,
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
            seed=options.seed,
            processes=options.nproc,
        ),
        progress=progress,
        output=options.output,
    )
    if not is_first():
        return
    print(
        f"wrote {trained.path}: {trained.architecture.name}, top-1 {trained.selection_top1:.2%} on "
        f"{trained.selection_images} images held out from training. Next: deploy build --checkpoint {trained.path} "
        f"--data {options.data}"
    )
