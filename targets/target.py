"""Targets: the fields of a target file, and the catalogue."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pipeline.artifacts import Dialect, Place, Precision
from pipeline.errors import TargetError
from pipeline.toml_errors import explain
from targets.gpu import Gpu, check_facts

CATALOGUE = Path(__file__).parent / "catalogue"
ALIASES, REFUSED = CATALOGUE / "aliases.toml", CATALOGUE / "refused.toml"
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Target:
    """A target, read from a TOML file; one line of the table that `deploy targets` prints."""

    # Used in folder names and image tags.
    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
            description="up to 64 letters, digits, dots, dashes and underscores",
            examples=["line-3"],
        ),
    ]
    description: str
    platform: Literal["linux/amd64", "linux/arm64"]
    runtime: Literal["onnxruntime", "tensorrt"]
    dialect: Dialect
    instruction_sets: tuple[Text, ...]
    """Instruction sets that int8 may use, best first; see `targets.device.model.cpu`. Empty for a GPU."""
    base_image: Text
    """Key of `docker/images.toml`."""
    channel_multiple: Annotated[StrictInt, Field(ge=1)]
    """Pruned widths are rounded to multiples of this if the layer is wide enough."""
    precisions: tuple[Precision, ...]
    provable_at: tuple[Place, ...]
    """Places where the gate can prove this target's artifact."""
    required_place: Place
    """Minimum place of the report that `release` requires, unless the recipe requires a higher one."""
    gpu: Gpu | None = None
    """The GPU of a TensorRT target; None for a CPU."""


def catalogue() -> list[Target]:
    """Return the targets that ship with the tool, sorted by name."""
    files = (path for path in CATALOGUE.glob("*.toml") if path not in (ALIASES, REFUSED))
    return sorted(map(read_target, files), key=lambda target: target.name)


def aliases() -> dict[str, str]:
    """Return the aliases of catalogue targets."""
    return {alias: str(name) for alias, name in tomllib.loads(ALIASES.read_text()).items()}


def find_target(name: str) -> Target:
    """Return a catalogue target by name or alias, or the user's own target by the path of a TOML file."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise TargetError(
                f"the target file {name} does not exist. Give the path of a TOML file, or a target's name."
            )
        return read_target(path)
    _refuse_by_name(name)
    known, other_names = {target.name: target for target in catalogue()}, aliases()
    if other_names.get(name, name) in known:
        return known[other_names.get(name, name)]
    close = difflib.get_close_matches(name, [*known, *other_names], n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    shown = ", ".join([*known, *(f"{alias} (= {target})" for alias, target in other_names.items())])
    raise TargetError(f"there is no target {name!r}.{hint} Known: {shown}; or give the path of a TOML file.")


def read_target(path: Path) -> Target:
    """Read a target file; raise `TargetError`, which names the file, for unknown, missing and invalid values."""
    try:
        raw = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"the target file {path} is not valid TOML: {error}.") from None
    try:
        target = TypeAdapter(Target).validate_python({"name": path.stem, **raw})
        _check_runtime(target)
    except ValidationError as error:
        raise TargetError(explain(f"the target file {path}", error, Target)) from None
    except ValueError as error:
        raise TargetError(f"the target file {path} has an invalid value: {error}.") from None
    _refuse_jetpack_4(path, target.gpu)
    return target


def _check_runtime(target: Target) -> None:
    """Raise `ValueError` if runtime, dialect, GPU and precisions contradict each other."""
    if target.gpu is not None:
        check_facts(target.gpu)
    for_tensorrt = target.runtime == "tensorrt"
    if not target.precisions:
        raise ValueError("precisions = [] is empty; the usual value is ['fp32', 'int8']")
    if not target.provable_at:
        raise ValueError("provable_at = [] is empty; the usual value is ['image']")
    for field in (target.precisions, target.provable_at, target.instruction_sets):
        if len(set(field)) != len(field):
            raise ValueError(f"{', '.join(field)} contains a duplicate")
    if for_tensorrt != (target.gpu is not None):
        raise ValueError(f'runtime = "{target.runtime}", but the file has {"no" if for_tensorrt else "a"} table [gpu]')
    if target.gpu is None and not target.instruction_sets:
        raise ValueError("instruction_sets = [] is empty; name at least one that the CPU has")
    if for_tensorrt != (target.dialect is Dialect.TENSORRT):
        raise ValueError(f'dialect = "{target.dialect}" is not supported by the runtime "{target.runtime}"')
    if target.gpu is not None and not target.gpu.int8 and Precision.INT8 in target.precisions:
        raise ValueError('precisions has "int8", but [gpu] says int8 = false; remove it from precisions')


def _refusals() -> dict[str, dict[str, str]]:
    return tomllib.loads(REFUSED.read_text())


def _refuse_by_name(name: str) -> None:
    """Raise `TargetError`, with an alternative, for well-known devices that are not supported."""
    for refusal in _refusals().values():
        if re.fullmatch(refusal["names"], name.lower()):
            raise TargetError(f"{name} is not supported: {refusal['reason']} {refusal['instead']}")


def _refuse_jetpack_4(path: Path, gpu: Gpu | None) -> None:
    if gpu is None or not any(version.split(".")[0] == "32" for version in gpu.l4t):
        return
    refusal = _refusals()["jetpack-4"]
    raise TargetError(
        f"the target file {path} is for JetPack {gpu.jetpack} (L4T {', '.join(gpu.l4t)}): {refusal['reason']} "
        f"{refusal['instead']}"
    )
