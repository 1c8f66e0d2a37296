"""`deploy explain`: print the documentation page of one error."""

import re
from pathlib import Path

from pipeline.cli.output import say
from pipeline.errors import EXIT_CODES, DeployError, RecipeError

PACKAGED = Path(__file__).parent.parent / "_errors"
CHECKOUT = Path(__file__).parent.parent.parent / "docs" / "errors"
LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


def run(what: str | None) -> None:
    """Print the page of an exit code or an error class; without an argument, list all."""
    if what is None:
        say(_all())
        return
    error = _find(what)
    # A terminal cannot follow links: print only their text.
    say(LINK.sub(r"\1", page(error).read_text(encoding="utf-8")).rstrip())


def page(error: type[DeployError]) -> Path:
    """Return the path of an error's page: in the package of a wheel, or in `docs/errors` of a checkout."""
    return (PACKAGED if PACKAGED.is_dir() else CHECKOUT) / f"{error.exit_code}-{error.__name__}.md"


def _find(what: str) -> type[DeployError]:
    for error in EXIT_CODES:
        if what.casefold() in (str(error.exit_code), error.__name__.casefold()):
            return error
    raise RecipeError(f"{what!r} is neither an error nor an exit code. Known:\n{_all()}")


def _all() -> str:
    return "\n".join(f"{error.exit_code:>4}  {error.__name__:<18} {error.meaning}" for error in EXIT_CODES)
