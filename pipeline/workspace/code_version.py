"""The version of a stage's code: a hash over its module and everything of ours that the module imports."""

import ast
import functools
import hashlib
import importlib.util
from pathlib import Path

PACKAGES = ("pipeline", "targets")
# Modules that only report or describe failures: a reworded message must not redo hours of training.
WITHOUT_EFFECT = frozenset({"pipeline.errors", "pipeline.progress", "pipeline.process"})


@functools.cache
def sources_digest(module: str) -> str:
    """Hex SHA-256 over the sources of `module` and of its transitive imports within our packages."""
    digest = hashlib.sha256()
    for name in sorted(_closure(module)):
        digest.update(f"{name}\0".encode() + _path(name).read_bytes())
    return digest.hexdigest()


def _closure(module: str) -> set[str]:
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _imports(name)
    return seen


@functools.cache
def _imports(module: str) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(_path(module).read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    ours = [name for name in found if name.split(".")[0] in PACKAGES and name not in WITHOUT_EFFECT]
    return [name for name in ours if _exists(name) and "." in name]


@functools.cache
def _exists(module: str) -> bool:
    base = _root() / Path(*module.split("."))
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


@functools.cache
def _path(module: str) -> Path:
    base = _root() / Path(*module.split("."))
    return base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"


@functools.cache
def _root() -> Path:
    spec = importlib.util.find_spec("pipeline")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.parent
