"""The command `deploy profile`; its work is in `pipeline.cli.profile`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options as o


def profile(
    recipe: o.RecipeFile = None,
    target: o.Targets = None,
    checkpoint: o.CheckpointFile = None,
    model: o.ModelFactory = None,
    data: o.Data = None,
    threads: o.Threads = None,
    weight_bits: o.WeightBits = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the table as JSON, for --table on another machine.")
    ] = None,
    workspace: o.WorkspaceFolder = None,
    as_json: o.AsJson = False,
    verbose: o.Verbose = False,
) -> None:
    """Measure how long each layer takes at each width on this machine, and how well that predicts whole networks."""
    from pipeline.cli.profile import run

    flags: dict[str, object] = {
        "targets": target,
        "checkpoint": checkpoint,
        "model": model,
        "data": data,
        "threads": threads,
        "quantize.weight_bits": int(weight_bits) if weight_bits in ("7", "8") else weight_bits,
    }
    run(
        o.Request(recipe_file=recipe, flags=flags, workspace=workspace, as_json=as_json, is_verbose=verbose),
        output=output,
    )
