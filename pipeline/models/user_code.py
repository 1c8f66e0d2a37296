"""Finding a network of the user's own in the working folder, without looking there for our own modules."""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from pipeline.errors import CheckpointError


def find_module(name: str) -> ModuleSpec | None:
    """Of the module as `import_module` imports it; raises `CheckpointError` where another has taken its name.

    The working folder comes last on the path: a folder `pipeline` or `targets` in it must not take the place of ours.
    """
    here = Path.cwd()
    if str(here) not in sys.path:
        sys.path.append(str(here))
    root = name.partition(".")[0]
    _check_name(root, here)
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a package around it is missing, or is a plain module
        return None


def import_module(name: str) -> ModuleType:
    """Raises `CheckpointError` for a name that is taken, and whatever the user's own code raises."""
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
        f"{own[0]} has the name of a module that is installed ({where}), which Python finds in its place. Give it "
        f"another name, such as my_{root}, and name that with --model."
    )
