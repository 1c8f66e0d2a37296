"""`deploy schema`: JSON Schema of what we read and of what we print."""

import json

from pipeline.errors import RecipeError


def run(of: str) -> None:
    """Print the schema of the recipe or of the document that `deploy build --json` prints."""
    if of == "recipe":
        from pipeline.recipe import Recipe

        schema = Recipe.model_json_schema()
    elif of == "build":
        from pipeline.report.document import summary_schema

        schema = summary_schema()
    else:
        raise RecipeError(f"there is no schema of {of!r}. Known: recipe, build.")
    print(json.dumps(schema, indent=2))
