"""Read a checkpoint file: the network's weights, their moving average, and other saved values.

Nothing in the file is imported or called (`models.pickle_reader`), and sizes are checked before anything is read.
"""

import pickle
import re
import stat
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.models.pickle_reader import Inert, load_inert
from pipeline.models.recognition import State, some

Kind = Literal["raw", "ema"]

CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params", "shadow")
AVERAGED = re.compile(r"(?:^|_)(?:ema|swa|averaged?)(?:_|$)", re.IGNORECASE)
"""Keys of a second copy of the network: the moving average of its weights."""
ACCURACY = re.compile(r"^(?:best_?|val_?|test_?|eval_?)*(?:top_?1|prec_?1|acc_?1?|accuracy)$", re.IGNORECASE)
"""Keys of the accuracy measured in training."""
COUNTER = "n_averaged"
"""Key that PyTorch's `AveragedModel` adds to the weights."""
MAX_RECORD_BYTES = 512 * 2**20
"""For everything except tensors: names, settings, histories. Real files need kilobytes."""
SHORTEST_ZIP = 1.05
"""Largest uncompressed size of an archive, relative to its file size: PyTorch does not compress."""
DAMAGED = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    IndexError,
    OSError,
    RecursionError,
)
"""Errors of PyTorch for truncated or damaged files; the type depends on the place of the damage."""
CURE = "In the training code, save torch.save(model.state_dict(), …)"
PICKLE = b"\x80"
FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"\x89HDF\r\n", "an HDF5 file, as Keras and older tools write"),
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"<!DOCTYPE", "an HTML page: the download returned a web page"),
    (b"<html", "an HTML page: the download returned a web page"),
)
ENTRIES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(^|/)code/.*\.py$"), "a TorchScript archive, a program"),
    (re.compile(r"(^|/)models/[^/]+\.json$"), "a program of torch.export (.pt2)"),
    (re.compile(r"^(?:model\.weights\.h5|config\.json)$"), "a Keras archive"),
    (re.compile(r"\.npy$"), "a file of NumPy arrays (.npz)"),
)
"""Formats of zip archives, by a name in them."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """One file's weights."""

    weights: Mapping[Kind, State]
    """At least one; two if the file also has a moving average."""
    places: Mapping[Kind, str]
    """Key of each in the file; empty for the file itself."""
    passed_over: tuple[str, ...]
    """Other keys of the file."""
    stated: tuple[str, float] | None = None
    """Key and value (a share) of the accuracy that the file states."""


def read_saved(source: Path) -> Saved:
    """Return tensors by name from a safetensors or `torch.save` file; raise `CheckpointError`."""
    start = _start_of(source)
    if start[8:9] == b"{" or source.suffix == ".safetensors":
        return Saved(weights={"raw": _safetensors(source)}, places={"raw": ""}, passed_over=())
    _check_format(source, start)
    return _find_weights(_unpickle(source), source)


def read_state(source: Path) -> State:
    """Return the network's tensors, without a moving average; raise `CheckpointError`."""
    weights = read_saved(source).weights
    return weights["raw" if "raw" in weights else "ema"]


def _start_of(source: Path) -> bytes:
    """Return the first bytes of a regular, non-empty file; raise `CheckpointError` for others."""
    if source.is_dir():
        hint = ", a TensorFlow SavedModel" if (source / "saved_model.pb").is_file() else ""
        raise CheckpointError(f"{source} is a folder{hint}. Give the file with the trained weights.")
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            raise CheckpointError(f"{source} is not a regular file. Give the file with the trained weights.")
        with source.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        raise CheckpointError(f"the checkpoint {source} does not exist. Give the path of the weights.") from None
    except OSError as error:
        raise CheckpointError(f"the checkpoint {source} cannot be read: {error.strerror}.") from None
    if not start:
        raise CheckpointError(f"{source} is empty (0 bytes). Copy or save it again.")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{source} is a Git LFS pointer, not the weights. Fetch them with `git lfs pull`.")
    return start


def _safetensors(source: Path) -> State:
    try:
        return load_file(source)
    except SafetensorError as error:
        raise CheckpointError(f"{source} is damaged or not a safetensors file: {error}. Copy it again.") from None


def _check_format(source: Path, start: bytes) -> None:
    """Raise `CheckpointError` with the format's name if the content is not from `torch.save`."""
    for signature, name in FORMATS:
        if start.startswith(signature):
            raise CheckpointError(f"{source} is {name}, not weights saved by PyTorch. {_how_to_save(source)}")
    # A protobuf message: the version of the format, 3 or later, then the producer's name or the graph.
    if start[:1] == b"\x08" and 3 <= start[1] < 32 and start[2:3] in (b"\x12", b"\x1a", b"\x3a", b"\x42"):
        raise CheckpointError(
            f"{source} is an ONNX model, without the names and normalizations of training. {_how_to_save(source)}"
        )
    if start[:4] == b"PK\x03\x04":
        _check_archive(source)


def _check_archive(source: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # PyTorch's own reader reports the damage.
    for pattern, name in ENTRIES:
        if any(pattern.search(entry.filename) for entry in entries):
            raise CheckpointError(f"{source} is {name}, not weights written by torch.save. {_how_to_save(source)}")
    if sum(entry.file_size for entry in entries) > SHORTEST_ZIP * source.stat().st_size + 2**20:
        raise CheckpointError(f"{source} is compressed, which torch.save never does: refused. {_how_to_save(source)}")
    for entry in entries:
        if entry.filename.endswith("data.pkl") and entry.file_size > MAX_RECORD_BYTES:
            raise CheckpointError(
                f"{source} has {entry.file_size / 1e6:,.0f} MB besides its tensors; at most "
                f"{MAX_RECORD_BYTES / 1e6:,.0f} MB are read. {_how_to_save(source)}"
            )


def _how_to_save(source: Path) -> str:
    del source
    return f"{CURE}, and give that file: .pth, .pt, .th or .safetensors."


def _unpickle(source: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old storage classes; the user cannot act on them
            try:
                return torch.load(source, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                return load_inert(source)
    except pickle.UnpicklingError:
        raise CheckpointError(_refusal(source)) from None
    except DAMAGED as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if "Invalid magic number" in reason:
            raise CheckpointError(_refusal(source)) from None
        raise CheckpointError(f"{source} is truncated or damaged ({reason}). Copy or save it again.") from None


def _refusal(source: Path) -> str:
    with source.open("rb") as file:
        is_pickle = file.read(1) == PICKLE
    if is_pickle:
        return f"{source} is a pickle that torch.save did not write. Refused: only plain weights are read. {CURE}."
    return (
        f"{source} is not a checkpoint: neither safetensors nor written by torch.save, or it is damaged. "
        "Give a .pth, .pt, .th or .safetensors file."
    )


def _find_weights(loaded: object, source: Path) -> Saved:
    """Find the weights inside the records of training code: epoch, optimizer, averaged copies, …"""
    place, passed_over, averaged = "", list[str](), dict[str, object]()
    stated: tuple[str, float] | None = None
    seen = set[int]()
    while isinstance(loaded, Mapping):
        if id(loaded) in seen:
            raise CheckpointError(f"{source} has a record that contains itself, and no weights. {CURE}.")
        seen.add(id(loaded))
        if isinstance(loaded, Inert) and not any(isinstance(value, Tensor | Mapping) for value in loaded.values()):
            break
        stated = stated or _stated_accuracy(loaded)
        averaged |= {str(key): value for key, value in loaded.items() if AVERAGED.search(str(key))}
        name = next((name for name in CONTAINERS if isinstance(loaded.get(name), Mapping)), None)
        if name is None:
            break
        passed_over += [str(key) for key in loaded if key != name and str(key) not in averaged]
        place, loaded = name, loaded[name]
    weights, places = dict[Kind, State](), dict[Kind, str]()
    tensors = _tensors(loaded)
    if tensors:
        weights["raw"], places["raw"] = tensors, place
        passed_over += [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]  # type: ignore[attr-defined]
    for key, value in averaged.items():
        copy = _tensors(_unwrap(value))
        if copy and "ema" not in weights and (not tensors or _names_and_shapes(copy) == _names_and_shapes(tensors)):
            weights["ema"], places["ema"] = copy, key
        else:
            passed_over.append(key)
    if not weights:
        raise CheckpointError(_no_weights_message(loaded, source))
    passed_over = sorted(set(passed_over) - set(places.values()))
    return Saved(weights=weights, places=places, passed_over=tuple(passed_over), stated=stated)


def _stated_accuracy(record: Mapping[object, object]) -> tuple[str, float] | None:
    """Return the accuracy beside the weights, which may be in percent; None if there is none."""
    for key, value in record.items():
        if not ACCURACY.search(str(key)):
            continue
        # A tensor on the meta device or without elements has no value.
        if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta:
            value = value.item()
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 100:
            return str(key), float(value) if value <= 1 else value / 100
    return None


def _unwrap(value: object) -> object:
    for _ in range(len(CONTAINERS)):
        if not isinstance(value, Mapping):
            break
        inner = next((value[name] for name in CONTAINERS if isinstance(value.get(name), Mapping)), None)
        if inner is None:
            break
        value = inner
    return value


def _tensors(value: object) -> State:
    if not isinstance(value, Mapping):
        return {}
    return {str(name): each for name, each in value.items() if isinstance(each, Tensor) and name != COUNTER}


def _names_and_shapes(state: State) -> set[tuple[str, torch.Size]]:
    """Return names without wrappers' prefixes, and shapes: equal for two copies of one network."""
    return {
        (re.sub(r"^(?:module\.|model\.|_orig_mod\.)*", "", name), value.shape)
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }


def _no_weights_message(loaded: object, source: Path) -> str:
    if isinstance(loaded, Inert):
        return (
            f"{source} contains an object of the class {loaded.full_name}, such as a whole pickled model. Refused: "
            f"only plain weights are read. {CURE}; for your own network also give its factory (--model "
            "package.module:make)."
        )
    if not isinstance(loaded, Mapping):
        return f"{source} contains a {type(loaded).__name__}, not a state dict of named tensors. {CURE}."
    keys = some(str(name) for name in loaded) or "nothing"
    return f"{source} has no named tensors (found: {keys}). Known containers: {', '.join(CONTAINERS)}."
