"""The passport of an engine: what it was built with and for, checked before TensorRT loads the engine.

An engine depends on the exact TensorRT, GPU and platform, and on a mismatch TensorRT only fails or crashes. The rules
for each field:

    schema               must be supported
    tensorrt             equal to the fourth part
    cuda                 equal
    compute_capability   equal
    gpu_name             equal: modules of one capability differ in shared memory and clocks
    multiprocessors      equal: GPUs of the same name have different numbers of them
    platform, l4t        equal, L4T in its first two parts (36.4.3 and 36.4.7 have the same libraries)
    driver               at least the one it was built with
    precision, dla_core  equal to the manifest's
    engine_sha256        of the engine's file; TensorRT never loads a damaged one
    onnx_sha256          of the ONNX file, if it is present
    timing_cache_sha256, built_at_place, tool   informative, not compared: they do not affect where the engine runs
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

from targets.device.errors import ModelError
from targets.device.files import ENGINE
from targets.device.files import PASSPORT as FILE
from targets.device.nvidia.machine import Machine, here

__all__ = [
    "ENGINE",
    "FILE",
    "Passport",
    "PassportError",
    "check",
    "check_asked",
    "check_files",
    "here",
    "issue",
    "read",
    "sha256",
]

SCHEMA = 1
PRECISIONS = ("fp32", "fp16", "int8")
PLACES = ("device", "host")
REBUILD = "Build the engine again on this device; an image that builds its own engine does so after removing {file}."


class PassportError(ModelError):
    """The engine does not fit this machine; the message has the field, both values and the cure."""


@dataclass(frozen=True)
class Passport:
    """The origin of an engine; see the module for the rules of each field."""

    schema: int
    tensorrt: str
    cuda: str
    compute_capability: str
    gpu_name: str
    multiprocessors: int
    platform: str
    l4t: str
    driver: str
    precision: str
    dla_core: Optional[int]
    onnx_sha256: str
    timing_cache_sha256: str
    engine_sha256: str
    built_at_place: str
    tool: str

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")


def issue(
    machine: Machine,
    engine: Path,
    onnx: Path,
    *,
    precision: str,
    dla_core: Optional[int],
    timing_cache: Optional[Path],
    built_at_place: str,
    tool: str,
) -> Passport:
    """Return the passport of an engine that was just built on `machine` from `onnx`."""
    has_cache = timing_cache is not None and timing_cache.is_file()
    return Passport(
        schema=SCHEMA,
        tensorrt=machine.tensorrt,
        cuda=machine.cuda,
        compute_capability=machine.compute_capability,
        gpu_name=machine.gpu_name,
        multiprocessors=machine.multiprocessors,
        platform=machine.platform,
        l4t=machine.l4t,
        driver=machine.driver,
        precision=precision,
        dla_core=dla_core,
        onnx_sha256=sha256(onnx),
        timing_cache_sha256=sha256(timing_cache) if timing_cache is not None and has_cache else "",
        engine_sha256=sha256(engine),
        built_at_place=built_at_place,
        tool=tool,
    )


def read(folder: Path) -> Passport:
    """Read the passport of an artifact folder; raise `PassportError` if it is missing or damaged."""
    file = folder / FILE
    try:
        raw: Any = json.loads(file.read_text())
    except FileNotFoundError:
        raise PassportError(f"{folder / ENGINE} has no passport ({file} is missing). {_rebuild()}") from None
    except ValueError as error:
        raise PassportError(f"{file} is damaged: {error}. {_rebuild()}") from None
    if not isinstance(raw, dict):
        raise PassportError(f"{file} is damaged: {type(raw).__name__} instead of an object. {_rebuild()}")
    # Checked first, since another schema may have other fields.
    if raw.get("schema") != SCHEMA:
        raise PassportError(
            f"{file}: schema is {raw.get('schema')!r}, but this version supports {SCHEMA}. Use the version of "
            f"the tool that built it ({raw.get('tool', 'unknown')}), or build the engine again."
        )
    return _parse(file, raw)


def check(passport: Passport, here: Machine) -> None:
    """Raise `PassportError` if the engine was built for another machine."""
    for field, is_met, cure in RULES:
        built, found = getattr(passport, field), getattr(here, field)
        if not is_met(built, found):
            raise PassportError(
                f"{field} is {found or 'none'!r} here, but the engine was built with {built or 'none'!r}. {cure}"
            )


def check_asked(passport: Passport, *, precision: str, dla_core: Optional[int]) -> None:
    """Raise `PassportError` if the engine's precision or DLA core differ from the manifest's."""
    if passport.precision != precision:
        raise PassportError(
            f"precision is {precision!r} in the manifest, but the engine was built in {passport.precision!r}. "
            f"{_rebuild()}"
        )
    if passport.dla_core != dla_core:
        raise PassportError(
            f"dla_core is {_core(dla_core)} in the manifest, but the engine was built for {_core(passport.dla_core)}. "
            f"{_rebuild()}"
        )


def check_files(passport: Passport, engine: Path, onnx: Optional[Path] = None) -> None:
    """Raise `PassportError` if the files are not those that the passport was issued for."""
    for field, file in (("engine_sha256", engine), ("onnx_sha256", onnx)):
        if file is None:
            continue
        if not file.is_file():
            raise PassportError(f"{file} is missing, for which the passport has {field}. {_rebuild()}")
        issued, found = getattr(passport, field), sha256(file)
        if issued != found:
            raise PassportError(
                f"{field} of {file} is {found[:16]}…, but the passport says {issued[:16]}…: the file was changed or "
                f"damaged. Copy the artifact again, or build it again."
            )


def sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _equal(built: object, found: object) -> bool:
    return built == found


def _same_release(built: str, found: str) -> bool:
    return built.split(".")[:2] == found.split(".")[:2]


def _not_older(built: str, found: str) -> bool:
    return _numbers(found) >= _numbers(built)


def _numbers(version: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _rebuild() -> str:
    return REBUILD.format(file=ENGINE)


def _core(core: Optional[int]) -> str:
    return "none" if core is None else str(core)


IMAGE = "Run it in the image in which it was built, or build it again in this one."
DEVICE = "Engines are not portable between modules, even of one family: build it again on this device."
RULES: Tuple[Tuple[str, Callable[[Any, Any], bool], str], ...] = (
    ("tensorrt", _equal, IMAGE),
    ("cuda", _equal, IMAGE),
    ("platform", _equal, "Engines are not portable between platforms: build it again on this one."),
    ("compute_capability", _equal, DEVICE),
    ("gpu_name", _equal, DEVICE),
    ("multiprocessors", _equal, DEVICE),
    ("l4t", _same_release, "After a JetPack change, build the engine again, or go back to that L4T."),
    ("driver", _not_older, "Update the NVIDIA driver to that version or a newer one, or build the engine again."),
)


def _parse(file: Path, raw: Dict[str, Any]) -> Passport:
    known = {field.name for field in fields(Passport)}
    strange = sorted(known.symmetric_difference(raw))
    if strange:
        raise PassportError(f"{file} has missing or unknown fields: {', '.join(strange)}. {_rebuild()}")
    passport = Passport(**raw)
    for name in known - {"schema", "multiprocessors", "dla_core"}:
        if not isinstance(raw[name], str):
            raise PassportError(f"{file}: {name} is {raw[name]!r} instead of a string. {_rebuild()}")
    core = passport.dla_core
    if type(passport.multiprocessors) is not int or not (core is None or type(core) is int):
        raise PassportError(
            f"{file}: multiprocessors is {passport.multiprocessors!r} and dla_core {core!r}; expected "
            f"integers. {_rebuild()}"
        )
    for name, allowed in (("precision", PRECISIONS), ("built_at_place", PLACES)):
        if raw[name] not in allowed:
            raise PassportError(f"{file}: {name} is {raw[name]!r}, not one of {', '.join(allowed)}. {_rebuild()}")
    return passport
