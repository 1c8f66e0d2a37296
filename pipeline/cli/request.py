"""The command line's request: the recipe, its overrides, and the workspace."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipeline.cli.option_table import TableCommand
from pipeline.cli.options import RecipeFlags, overrides
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from pipeline.recipe import Recipe

RECIPE_FILE = Path("deploy.toml")
WORKSPACE = ".deploy"


@dataclass(frozen=True, kw_only=True)
class Request:
    """The command line's request, before it is checked."""

    recipe_file: Path | None
    flags: dict[str, object]
    workspace: Path | None
    as_json: bool
    is_verbose: bool

    @cached_property
    def recipe(self) -> "Recipe":
        """The checked recipe, read once; raises `RecipeError`."""
        from pipeline.recipe import read_recipe

        return read_recipe(self.existing_recipe_file, self.flags)

    @property
    def existing_recipe_file(self) -> Path | None:
        return existing_recipe_file(self.recipe_file)

    @property
    def workspace_folder(self) -> Path:
        return workspace_folder(self.recipe_file, self.workspace)


class RecipeCommand(TableCommand):
    """A command that takes every option of the recipe; its function calls `request_of`."""

    table = RecipeFlags


def request_of(ctx: typer.Context) -> Request:
    """Return the request of a `RecipeCommand`."""
    flags = ctx.obj
    assert isinstance(flags, RecipeFlags), "not the context of a RecipeCommand"
    return Request(
        recipe_file=flags.recipe,
        flags=overrides(flags),
        workspace=flags.workspace,
        as_json=flags.as_json,
        is_verbose=flags.verbose,
    )


def existing_recipe_file(recipe: Path | None) -> Path | None:
    """Return the given file, or `deploy.toml` if it exists."""
    if recipe is not None:
        return recipe
    return RECIPE_FILE if RECIPE_FILE.exists() else None


def workspace_folder(recipe: Path | None, workspace: Path | None) -> Path:
    """Return the folder of --workspace, or the one beside the recipe; raise `RecipeError` if it is not usable."""
    if workspace is not None:
        try:
            str(workspace).encode()
        except UnicodeEncodeError:
            raise RecipeError(
                f"the workspace {str(workspace)!r} is not valid UTF-8, so reports could not name it. "
                "Give another one with --workspace."
            ) from None
        return workspace
    file = existing_recipe_file(recipe)
    if file is not None and not file.exists():
        raise RecipeError(f"the recipe {file} does not exist. Give another one with --recipe, or give --workspace.")
    return (file.parent if file is not None else Path()) / WORKSPACE
