"""The command line: all commands by name; a command's own imports are made when it runs."""

import errno
import os
import sys
from functools import partial
from typing import Annotated

import typer

from pipeline import __version__
from pipeline.cli.bench import bench
from pipeline.cli.build import PARTS, build, build_until
from pipeline.cli.clean import clean
from pipeline.cli.collect import collect
from pipeline.cli.demo import demo
from pipeline.cli.devices import devices
from pipeline.cli.emit import emit
from pipeline.cli.init import init
from pipeline.cli.interrupt import Interrupted, raise_on_signals
from pipeline.cli.package import package
from pipeline.cli.plan import plan
from pipeline.cli.predict import predict
from pipeline.cli.profile import ProfileCommand, profile
from pipeline.cli.request import RecipeCommand
from pipeline.cli.schema import schema
from pipeline.cli.status import status
from pipeline.cli.targets import targets
from pipeline.cli.train import TrainCommand, train
from pipeline.cli.validate import validate
from pipeline.errors import EXIT_CODES, DeployError, WorkspaceError
from pipeline.training.allocator import keep_freed_memory
from pipeline.untrusted import printable

EPILOG = "Exit codes:  0 done · 1 a bug in Edge Deploy · 2 wrong command line · " + " · ".join(
    f"{error.exit_code} {error.meaning}" for error in EXIT_CODES
)
BUILDING, LOOKING, SETTING_UP = "Build", "Use and look", "Set up"

NEWCOMER = """\
deploy turns a trained ResNet into a container image whose accuracy and speed are proven.

  deploy demo    see all steps on handwritten digits: train, build, start the image, ask it
  deploy init    write deploy.toml; set your checkpoint and your images in it
  deploy build   build the image that deploy.toml describes

deploy --help lists all commands; deploy COMMAND --help explains one."""
"""Printed by `deploy` without a command."""
MAX_ERROR_CHARACTERS = 20_000
"""In characters; output of other processes and programs may be long."""

app = typer.Typer(
    name="deploy",
    help="Turn a trained ResNet into a container image with proven accuracy and speed; without proof, no image.",
    epilog=EPILOG + " · 130 interrupted.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run the command line; only this function catches and prints `DeployError`."""
    raise_on_signals()
    keep_freed_memory()
    # Later runs trust these files: never let everybody write there, whatever the shell's umask.
    os.umask(os.umask(0o077) | 0o002)
    say = partial(print, file=sys.stderr, flush=True)
    try:
        try:
            app()
        finally:
            # Python does this at exit, but its failure would bypass our message.
            sys.stdout.flush()
    except DeployError as error:
        say(f"error: {printable(str(error), longest=MAX_ERROR_CHARACTERS)}")
        say(f"More: deploy explain {error.exit_code} ({type(error).__name__}).")
        sys.exit(error.exit_code)
    except Interrupted as stop:
        say(f"stopped by {stop}. Finished stages and epochs are kept: run the same command to continue.")
        sys.exit(stop.exit_code)
    except BrokenPipeError:
        # The reader of our output closed the pipe (`deploy … | head`).
        _write_no_more()
        sys.exit(141)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _write_no_more()
        where = f"{error.filename} cannot be written" if error.filename else "the output cannot be written"
        say(f"error: {where}: {error.strerror}. Free some space, or give another path, and run again.")
        say(f"More: deploy explain {WorkspaceError.exit_code} ({WorkspaceError.__name__}).")
        sys.exit(WorkspaceError.exit_code)


def _write_no_more() -> None:
    """Discard buffered output, which cannot be written anymore."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app.command("build", cls=RecipeCommand, rich_help_panel=BUILDING)(build)
app.command("devices", rich_help_panel=LOOKING)(devices)
app.command("bench", rich_help_panel=LOOKING)(bench)
for _stage, _help in PARTS.items():
    app.command(_stage, cls=RecipeCommand, help=_help, rich_help_panel=BUILDING)(build_until(_stage))
app.command("package", cls=RecipeCommand, rich_help_panel=BUILDING)(package)
app.command("profile", cls=ProfileCommand, rich_help_panel=BUILDING)(profile)
app.command("emit", rich_help_panel=SETTING_UP)(emit)
app.command("collect", rich_help_panel=LOOKING)(collect)
app.command("plan", cls=RecipeCommand, rich_help_panel=BUILDING)(plan)
app.command("demo", rich_help_panel=BUILDING)(demo)
app.command("train", cls=TrainCommand, rich_help_panel=BUILDING)(train)
app.command("validate", rich_help_panel=LOOKING)(validate)
app.command("predict", rich_help_panel=LOOKING)(predict)
app.command("status", rich_help_panel=LOOKING)(status)
app.command("clean", rich_help_panel=SETTING_UP)(clean)
app.command("init", rich_help_panel=SETTING_UP)(init)
app.command("schema", rich_help_panel=SETTING_UP)(schema)
app.command("targets", rich_help_panel=SETTING_UP)(targets)


@app.command(rich_help_panel=LOOKING)
def explain(
    what: Annotated[
        str | None, typer.Argument(metavar="[EXIT CODE|ERROR]", help="Such as 11 or GateUndecided.")
    ] = None,
) -> None:
    """Explain an error: what happened, why, and what to do."""
    from pipeline.cli.explain import run

    run(what)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deploy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    del version
    if ctx.invoked_subcommand is None:
        typer.echo(NEWCOMER)
        raise typer.Exit(2)
