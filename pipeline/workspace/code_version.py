"""Version of a stage's code: a hash over its module and all of our modules that it imports.

Comments, docstrings and the messages of `raise Error(...)`, `progress.line(...)` and `progress.detail(...)` are not
hashed: a reworded message must not repeat hours of training.
"""

import ast
import functools
import hashlib
import importlib.util
from pathlib import Path

PACKAGES = ("pipeline", "targets")
# Modules that only report or describe errors.
WITHOUT_EFFECT = frozenset({"pipeline.errors", "pipeline.progress", "pipeline.process"})
PROGRESS_METHODS = ("line", "detail")
"""Methods of `Progress`."""
PLAIN = frozenset(
    {"abs", "float", "int", "join", "len", "list", "max", "min", "repr", "round", "sorted", "str", "sum"}
)
"""Calls allowed within a message; they have no effect."""
EMPTY = ast.Constant("")


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
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    ours = [name for name in found if name.split(".")[0] in PACKAGES and name not in WITHOUT_EFFECT]
    return [name for name in ours if _exists(name) and "." in name]


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_bytes())


@functools.cache
def _without_words(module: str) -> bytes:
    """Return the SHA-256 of the syntax tree without docstrings, also those of attributes, and without messages."""
    tree = _tree(module)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [each for each in body if not _is_docstring(each)]
        call = _saying(node)
        if call is not None:
            call.args = [EMPTY if _is_message(each) else each for each in call.args]
            for keyword in call.keywords:
                keyword.value = EMPTY if _is_message(keyword.value) else keyword.value
    return hashlib.sha256(ast.dump(tree).encode()).digest()


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _saying(node: ast.AST) -> ast.Call | None:
    """Return the call whose texts are only read by people: of an error that is raised, or of `Progress`."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return node.exc
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        if isinstance(called, ast.Attribute) and called.attr in PROGRESS_METHODS:
            return node.value
    return None


def _is_message(node: ast.expr) -> bool:
    """Whether `node` is text that only formats values."""
    return _is_text(node) and all(_is_plain(each) for each in ast.walk(node) if isinstance(each, ast.Call))


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
