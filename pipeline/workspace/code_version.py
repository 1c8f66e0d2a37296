"""Version of a stage's code: a hash over its module and all of our modules that it imports.

Docstrings and the messages of `raise Error(...)`, `progress.line(...)` and `progress.detail(...)` are not hashed:
a reworded message must not repeat hours of training.
"""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("pipeline", "targets")
# Modules that only report or describe errors.
WITHOUT_EFFECT = frozenset({"pipeline.errors", "pipeline.progress", "pipeline.process"})
SAYING = ("line", "detail")
"""Methods of `Progress`."""
PLAIN = frozenset(
    {"abs", "float", "int", "join", "len", "list", "max", "min", "repr", "round", "sorted", "str", "sum"}
)
"""Calls allowed within a message; they have no effect."""


@functools.cache
def code_version(module: str, *, leave_out: tuple[str, ...] = ()) -> str:
    """Return the hex SHA-256 of the code of `module` and of its transitive imports within our packages.

    `leave_out`: packages and modules that are imported but not run.
    """
    digest = hashlib.sha256()
    for name in sorted(modules_of(module, leave_out=leave_out)):
        digest.update(f"{name}\0".encode() + _without_words(name))
    return digest.hexdigest()


def modules_of(module: str, *, leave_out: tuple[str, ...] = ()) -> set[str]:
    """Return `module` and all of our modules that it imports, directly or indirectly."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen and not any(f"{name}.".startswith(f"{each}.") for each in leave_out):
            seen.add(name)
            waiting += _imports(name)
    return seen


@functools.cache
def _imports(module: str) -> list[str]:
    found: list[str] = []
    for node in _nodes(module):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    ours = [name for name in found if name.split(".")[0] in PACKAGES and name not in WITHOUT_EFFECT]
    return [name for name in ours if _exists(name) and "." in name]


@functools.cache
def _nodes(module: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(_path(module).read_bytes())))


def _without_words(module: str) -> bytes:
    source = _path(module).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    kept, end = [], 0
    for first, last in sorted(_span(node, starts) for node in _words(module)):
        if first >= end:
            kept.append(source[end:first])
            end = last
    return b"".join([*kept, source[end:]])


def _span(node: ast.expr, starts: list[int]) -> tuple[int, int]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset


def _words(module: str) -> Iterator[ast.expr]:
    for node in _nodes(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield first.value
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield from _arguments(node.exc)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Attribute) and called.attr in SAYING:
                yield from _arguments(node.value)


def _arguments(call: ast.Call) -> Iterator[ast.expr]:
    """Yield the arguments that are text and only format values."""
    for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
        if _is_text(argument) and all(_is_plain(node) for node in ast.walk(argument) if isinstance(node, ast.Call)):
            yield argument


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_plain(call: ast.Call) -> bool:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    return name in PLAIN


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
