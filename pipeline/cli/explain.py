"""`deploy explain`: the page of one error, as it is in the documents."""

import re
from pathlib import Path

from pipeline.cli.output import say
from pipeline.errors import EXIT_CODES, DeployError, RecipeError

PACKAGED = Path(__file__).parent.parent / "_errors"
CHECKOUT = Path(__file__).parent.parent.parent / "docs" / "errors"
LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


def run(what: str | None) -> None:
    """Print the page of an exit code or of an error's class; without either, print what there is to explain."""
    if what is None:
        say(_all())
        return
    error = _find(what)
    # A terminal follows no links: their text is enough.
    say(LINK.sub(r"\1", page(error).read_text(encoding="utf-8")).rstrip())


def page(error: type[DeployError]) -> Path:
    """Return the path of an error's page: in the package of a wheel, or in `docs/errors` of a checkout."""
    return (PACKAGED if PACKAGED.is_dir() else CHECKOUT) / f"{error.exit_code}-{error.__name__}.md"


def _find(what: str) -> type[DeployError]:
    for error in EXIT_CODES:
        if what.casefold() in (str(error.exit_code), error.__name__.casefold()):
            return error
    raise RecipeError(f"there is no error {what!r} to explain. Known:\n{_all()}")


def _all() -> str:
    return "\n".join(f"{error.exit_code:>4}  {error.__name__:<18} {error.meaning}" for error in EXIT_CODES)
