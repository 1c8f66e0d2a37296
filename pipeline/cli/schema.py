"""`deploy schema`: JSON Schema of the recipe and of the output."""

import json
from typing import Annotated

import typer

from pipeline.errors import RecipeError


def schema(
    of: Annotated[
        str, typer.Argument(metavar="[recipe|build]", help="The recipe, or the document of --json.")
    ] = "recipe",
) -> None:
    """Print a JSON Schema."""
    if of == "recipe":
        from pipeline.recipe import Recipe

        found = Recipe.model_json_schema()
    elif of == "build":
        from pipeline.report.document import summary_schema

        found = summary_schema()
    else:
        raise RecipeError(f"there is no schema for {of!r}. Known: recipe, build.")
    print(json.dumps(found, indent=2))
