"""The command line: names, options and help; the work is in `pipeline.commands`, imported when it is asked for."""

import errno
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline import __version__
from pipeline import options as o
from pipeline.benchmark import bench
from pipeline.collection import collect
from pipeline.emission import emit, with_emission
from pipeline.errors import EXIT_CODES, DeployError, WorkspaceError
from pipeline.interrupt import Interrupted, raise_on_signals
from pipeline.malloc import keep_freed_memory
from pipeline.placement import devices, with_devices
from pipeline.printable import printable
from pipeline.tabulation import profile
from pipeline.tuition import train

EPILOG = "Exit codes:  0 done · 1 a bug of ours · 2 wrong command line · " + " · ".join(
    f"{error.exit_code} {error.meaning}" for error in EXIT_CODES
)
BUILDING, LOOKING, SETTING_UP = "Build", "Use and look", "Set up"

MOST_OF_AN_ERROR = 20_000
"""Characters; the others' processes and programs may have said much."""

KEYS = {
    "target": "targets",
    "checkpoint": "checkpoint",
    "model": "model",
    "data": "data",
    "expect_accuracy": "expected_accuracy",
    "weights": "weights",
    "seed": "seed",
    "macs": "prune.macs",
    "params": "prune.params",
    "latency": "prune.latency",
    "speedup": "prune.speedup",
    "table": "prune.table",
    "epochs": "prune.epochs",
    "nproc": "nproc",
    "qat_epochs": "quantize.qat_epochs",
    "weight_bits": "quantize.weight_bits",
    "saturation_safe": "quantize.saturation_safe",
    "max_drop": "validate.max_drop",
    "undecided": "validate.undecided",
    "threads": "threads",
    "name": "name",
    "image_version": "version",
    "base_image": "package.base_image",
    "image": "package.image",
    "grpc": "package.grpc",
    "dla": "package.dla",
    "personal_images": "package.personal_images",
}
"""Of an option's name to the recipe's key that it overrides."""

app = typer.Typer(
    name="deploy",
    help="A trained ResNet goes in, a container image whose accuracy and speed are proven comes out, or nothing does.",
    epilog=EPILOG + " · 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run the command line; the only place that catches and prints our errors."""
    raise_on_signals()
    keep_freed_memory()
    # Whatever is written is what later runs believe: not everybody is to write there, whatever the shell allows.
    os.umask(os.umask(0o077) | 0o002)
    say = partial(print, file=sys.stderr, flush=True)
    try:
        try:
            app()
        finally:
            # Python does so as it ends, and fails without a word of ours.
            sys.stdout.flush()
    except DeployError as error:
        say(f"error: {printable(str(error), longest=MOST_OF_AN_ERROR)}")
        sys.exit(error.exit_code)
    except Interrupted as stop:
        say(f"stopped by {stop}. Finished stages and epochs are kept: the same command goes on from there.")
        sys.exit(stop.exit_code)
    except BrokenPipeError:
        # The reader of our output went away (`deploy … | head`).
        _write_no_more()
        sys.exit(141)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _write_no_more()
        where = f"{error.filename} cannot be written" if error.filename else "the output cannot be written"
        say(f"error: {where}: {error.strerror}. Free some space, or name another place, and run again.")
        sys.exit(WorkspaceError.exit_code)


def _write_no_more() -> None:
    """What is still buffered has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_recipe(act: Callable[[o.Request], None]) -> Callable[..., None]:
    """A command that takes every option of the recipe; `act` gets what was asked for."""

    def command(
        recipe: o.RecipeFile = None,
        target: o.Targets = None,
        checkpoint: o.CheckpointFile = None,
        model: o.ModelFactory = None,
        data: o.Data = None,
        expect_accuracy: o.ExpectAccuracy = None,
        weights: o.Weights = None,
        seed: o.Seed = None,
        macs: o.Macs = None,
        params: o.Params = None,
        latency: o.Latency = None,
        speedup: o.Speedup = None,
        table: o.Table = None,
        epochs: o.Epochs = None,
        qat_epochs: o.QatEpochs = None,
        nproc: o.Nproc = None,
        weight_bits: o.WeightBits = None,
        saturation_safe: o.SaturationSafe = None,
        max_drop: o.MaxDrop = None,
        undecided: o.Undecided = None,
        threads: o.Threads = None,
        name: o.Name = None,
        image_version: o.Version = None,
        base_image: o.BaseImage = None,
        image: o.WithImage = None,
        grpc: o.Grpc = None,
        dla: o.Dla = None,
        personal_images: o.PersonalImages = None,
        workspace: o.WorkspaceFolder = None,
        as_json: o.AsJson = False,
        verbose: o.Verbose = False,
    ) -> None:
        # Before anything else is one: the options alone.
        given = locals().copy()
        flags = {dotted: given[name] for name, dotted in KEYS.items()}
        if weight_bits in ("7", "8"):
            flags["quantize.weight_bits"] = int(weight_bits)
        act(o.Request(recipe_file=recipe, flags=flags, workspace=workspace, as_json=as_json, is_verbose=verbose))

    return command


def _build_until(last_stage: str) -> Callable[[o.Request], None]:
    def act(request: o.Request) -> None:
        from pipeline.commands.build import run

        run(request, until=last_stage)

    return act


def _plan(request: o.Request) -> None:
    from pipeline.commands.plan import run

    run(request)


app.command("build", help="Take the checkpoint through all stages to a proven image.", rich_help_panel=BUILDING)(
    with_devices(_with_recipe)
)
app.command("devices", rich_help_panel=LOOKING)(devices)
app.command("bench", rich_help_panel=LOOKING)(bench)
for _stage, _help in {
    "load": "Load the checkpoint and measure its float accuracy, then stop.",
    "prune": "Build up to the pruned and recovered network.",
    "quantize": "Build up to the quantized network.",
    "export": "Build up to the ONNX files, checked against PyTorch.",
    "compile": "Build up to the compiled, timed and audited candidates.",
}.items():
    app.command(_stage, help=_help, rich_help_panel=BUILDING)(_with_recipe(_build_until(_stage)))
app.command("package", help="Build all of it, and write what runs the image.", rich_help_panel=BUILDING)(
    with_emission(_with_recipe)
)
app.command("profile", rich_help_panel=BUILDING)(profile)
app.command("emit", rich_help_panel=SETTING_UP)(emit)
app.command("collect", rich_help_panel=LOOKING)(collect)
app.command(
    "plan", help="Say what a build would do, what is done already, how long and how much.", rich_help_panel=BUILDING
)(_with_recipe(_plan))


@app.command(rich_help_panel=BUILDING)
def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its files.")] = Path("edge-deploy-demo"),
    base_image: o.BaseImage = None,
    image: o.WithImage = True,
    verbose: o.Verbose = False,
) -> None:
    """Train a small ResNet on embedded digits, build its image, start it and ask it a question."""
    from pipeline.commands.demo import run

    run(folder=folder, base_image=base_image, with_image=bool(image), is_verbose=verbose)


app.command("train", rich_help_panel=BUILDING)(train)


@app.command(rich_help_panel=LOOKING)
def validate(
    subject: Annotated[str, typer.Argument(metavar="ARTIFACT|IMAGE", help="An artifact folder or an image's tag.")],
    data: Annotated[str | None, typer.Option(help="Other images than the gate's: accuracy, but no verdict.")] = None,
    shard: Annotated[Path | None, typer.Option(help="The shard.zip written beside the artifact.")] = None,
    max_drop: Annotated[float, typer.Option(min=0, max=100, help="Points of top-1 it may lose.")] = 1.0,
    workspace: o.WorkspaceFolder = None,
    as_json: o.AsJson = False,
    verbose: o.Verbose = False,
) -> None:
    """Measure an artifact or an image against the float baseline again."""
    from pipeline.commands.validate import run

    run(
        subject,
        data=data,
        shard=shard,
        workspace=workspace or Path(".deploy"),
        max_drop=max_drop,
        as_json=as_json,
        is_verbose=verbose,
    )


@app.command(rich_help_panel=LOOKING)
def predict(
    subject: Annotated[str, typer.Argument(metavar="ARTIFACT|IMAGE", help="An artifact folder or an image's tag.")],
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 1,
    as_json: o.AsJson = False,
) -> None:
    """Classify photos: class and score."""
    from pipeline.commands.predict import run

    run(subject, photos, top=top, as_json=as_json)


@app.command(rich_help_panel=LOOKING)
def status(
    workspace: o.WorkspaceFolder = None,
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file of every stage.")] = False,
) -> None:
    """Show what the workspace holds."""
    from pipeline.commands.status import run

    run(workspace or Path(".deploy"), verify=verify)


@app.command(rich_help_panel=SETTING_UP)
def clean(
    workspace: o.WorkspaceFolder = None,
    everything: Annotated[bool, typer.Option("--all", help="Artifacts and reports too.")] = False,
) -> None:
    """Remove the stages' work, unfinished trainings too; published artifacts and reports stay unless --all."""
    from pipeline.commands.clean import run

    run(workspace or Path(".deploy"), everything=everything)


@app.command(rich_help_panel=SETTING_UP)
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("deploy.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite.")] = False,
) -> None:
    """Write a commented deploy.toml."""
    from pipeline.commands.init import run

    run(path, force=force)


@app.command(rich_help_panel=SETTING_UP)
def schema(
    of: Annotated[
        str, typer.Argument(metavar="[recipe|build]", help="The recipe, or the document of --json.")
    ] = "recipe",
) -> None:
    """Print a JSON Schema."""
    from pipeline.commands.schema import run

    run(of)


@app.command(rich_help_panel=SETTING_UP)
def targets(
    words: Annotated[list[str] | None, typer.Argument(metavar="[show] [NAME]")] = None, as_json: o.AsJson = False
) -> None:
    """List the targets, or explain one."""
    from pipeline.commands.targets import run

    run(words or [], as_json=as_json)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deploy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    del version
