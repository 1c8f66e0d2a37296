"""Find the user's own network in the working folder, without shadowing our own modules."""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from pipeline.errors import CheckpointError


def find_module(name: str) -> ModuleSpec | None:
    """Return the spec of the module that `import_module` imports; raise `CheckpointError` if its name is taken.

    The working folder is last on the path: a folder `pipeline` or `targets` in it must not replace ours.
    """
    here = Path.cwd()
    if str(here) not in sys.path:
        sys.path.append(str(here))
    root = name.partition(".")[0]
    _check_name(root, here)
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a parent package is missing, or is a plain module
        return None


def import_module(name: str) -> ModuleType:
    """Import the module; raise `CheckpointError` for a taken name, and any error of the user's own code."""
    find_module(name)
    return importlib.import_module(name)


def _check_name(root: str, here: Path) -> None:
    own = [path for path in (here / root, here / f"{root}.py") if path.exists()]
    found = importlib.util.find_spec(root)
    if not own or found is None:
        return
    places = [Path(place) for place in (found.origin, *(found.submodule_search_locations or ())) if place]
    if any(place.is_relative_to(here) for place in places):
        return
    where = str(places[0].parent) if places else "Python itself"
    raise CheckpointError(
        f"{own[0]} has the name of an installed module ({where}), which Python imports instead. Give it "
        f"another name, such as my_{root}, and use that with --model."
    )
