"""`deploy train`: a float checkpoint that `deploy build` can load."""

from pathlib import Path

from pipeline.cli.console import progress_for
from pipeline.data.readers import open_dataset
from pipeline.progress import Silent
from pipeline.recipe import PreprocessingRecipe
from pipeline.training.torchrun import is_first, refuse_torchrun
from pipeline.training.train import TrainSettings


def run(
    *,
    output: Path,
    data: str,
    network: str,
    checkpoint: Path | None,
    epochs: int,
    learning_rate: float | None,
    batch_size: int,
    processes: int,
    seed: int,
    is_verbose: bool,
) -> None:
    """Train, write the checkpoint and say how good it is on images it has not seen."""
    if processes > 1:
        refuse_torchrun("it has started the processes already; leave out --nproc.")
    progress = progress_for(is_verbose=is_verbose) if is_first() else Silent()
    dataset = open_dataset(data, seed=seed, progress=progress)
    for note in dataset.notes:
        progress.line(f"note: {note}")

    from pipeline.training.train import train

    trained = train(
        dataset,
        TrainSettings(
            preprocessing=PreprocessingRecipe(),
            network=network,
            checkpoint=checkpoint,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
            processes=processes,
        ),
        progress=progress,
        output=output,
    )
    if not is_first():
        return
    print(
        f"wrote {trained.path}: {trained.architecture.name}, top-1 {trained.selection_top1:.2%} on "
        f"{trained.selection_images} images kept apart from training. Next: deploy build --checkpoint {trained.path} "
        f"--data {data}"
    )
