"""Read `torch.save` files that contain more than weights, without running any code from the file.

A pickle is a program: it names classes and functions and calls them. Here every name, except those that build
tensors, is replaced by `Inert`, which accepts any call and does nothing. So paths, NumPy arrays, optimizers and
settings of any library are skipped. A file that calls something no training record needs, such as a shell, is
refused: it is malicious.
"""

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch

from pipeline.errors import CheckpointError

TENSORS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
}
PLAIN = frozenset((
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range",
    "set", "slice", "str", "tuple", "xrange", "unicode", "long", "basestring",
))  # fmt: skip
"""Value types of `builtins`, also under their Python 2 names."""
HARMFUL = frozenset((
    "_pickle", "asyncio", "atexit", "bdb", "builtins", "code", "codeop", "commands", "ctypes", "dill",
    "cloudpickle", "ftplib", "gc", "http", "idlelib", "imp", "importlib", "inspect", "ipaddress", "joblib",
    "marshal", "multiprocessing", "nt", "operator", "os", "pdb", "pickle", "pip", "pkgutil", "platform",
    "posix", "profile", "pty", "pydoc", "requests", "runpy", "shutil", "signal", "site", "socket",
    "subprocess", "sys", "tempfile", "threading", "timeit", "trace", "types", "urllib", "webbrowser",
    "zipimport",
))  # fmt: skip
"""Modules by which pickles are known to run programs, load code or open connections."""
HARMFUL_OF_TORCH = ("torch.hub", "torch.jit", "torch.package", "torch.serialization", "torch.storage._load_from_bytes")


class Inert(dict[Any, Any]):
    """Placeholder for an object of a class that is not imported; as a mapping it keeps its items."""

    full_name = ""
    dump_patches = False
    """PyTorch reads this from whole modules in files from before 2020."""

    def __new__(cls, *args: object, **options: object) -> "Inert":
        del args, options
        return super().__new__(cls)

    def __init__(self, *args: object, **options: object) -> None:
        del args, options
        super().__init__()

    def __call__(self, *args: object, **options: object) -> "Inert":
        del args, options
        return Inert()

    def __setstate__(self, state: object) -> None:
        del state

    def append(self, item: object) -> None:
        """Accept an item of a list."""

    def extend(self, items: object) -> None:
        """Accept the items of a list."""

    def add(self, item: object) -> None:
        """Accept an item of a set."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class Harmful(pickle.UnpicklingError):
    """The file calls something that runs code."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if (module, name) in TENSORS:
            return TENSORS[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module in ("builtins", "__builtin__") and name in PLAIN:
            return Inert
        root = module.partition(".")[0].replace("__builtin__", "builtins")
        if root in HARMFUL or full.startswith(HARMFUL_OF_TORCH):
            raise Harmful(full)
        return type(name, (Inert,), {"full_name": full})


def _load(file: IO[bytes], **options: Any) -> object:
    return _Unpickler(file, **options).load()


def _loads(data: bytes, **options: Any) -> object:
    return _load(io.BytesIO(data), **options)


def load_inert(source: Path) -> object:
    """Return the content of a `torch.save` file, tensors as tensors and objects of classes as `Inert`.

    Raises `CheckpointError` for a file that calls something that runs code, and PyTorch's own errors for a
    damaged one.
    """
    as_pickle = SimpleNamespace(
        Unpickler=_Unpickler, load=_load, loads=_loads, UnpicklingError=pickle.UnpicklingError, __name__="inert"
    )
    try:
        return torch.load(source, map_location="cpu", weights_only=False, pickle_module=as_pickle)
    except Harmful as error:
        raise CheckpointError(
            f"{source} tries to run code when it is loaded: it calls {error}. Refused: only plain weights are "
            "read. In the training code, save torch.save(model.state_dict(), …)."
        ) from None
