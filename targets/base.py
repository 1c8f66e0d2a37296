"""What a target is, and what a runtime must be able to do."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import Audit, Dialect, Latency, OnnxModel, Place, Precision
from pipeline.errors import TargetError

CATALOGUE = Path(__file__).parent / "catalogue"


@dataclass(frozen=True, kw_only=True)
class Target:
    """One line of the table `deploy targets` prints; read from a TOML file."""

    name: str
    description: str
    platform: Literal["linux/amd64", "linux/arm64"]
    runtime: Literal["onnxruntime"]
    dialect: Dialect
    instruction_sets: tuple[str, ...]
    """Instruction sets int8 may rely on, best first; see `targets.device.cpu`."""
    base_image: str
    """Key of `docker/images.toml`."""
    channel_multiple: int
    """Pruned widths are rounded to multiples of this where the layer is wide enough."""
    precisions: tuple[Precision, ...]
    provable_at: tuple[Place, ...]
    """Places where this target's artifact can be proven."""
    required_place: Place
    """The least place whose report lets `release` ship, unless the recipe asks for more."""


class Session(Protocol):
    """A loaded model that answers; used as a context manager."""

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [N, C] of preprocessed images [N, 3, H, W]."""


class Runtime(Protocol):
    """One way to run a model: how it is compiled, timed and looked into."""

    @property
    def version(self) -> str:
        """Of the runtime that is installed here."""

    def open(self, model: Path, *, options: Mapping[str, str | int]) -> Session:
        """A session of a bare model file; raises `CompileError`."""

    def session_options(self, target: Target, *, threads: int) -> Mapping[str, str | int]:
        """The options the artifact is opened with everywhere, stored in its manifest."""

    def time(self, models: Sequence[Path], *, options: Mapping[str, str | int]) -> list[Latency]:
        """Latency of each model at batch 1, all interleaved in one run."""

    def audit(self, model: OnnxModel, *, options: Mapping[str, str | int], platform: str | None = None) -> Audit:
        """Count what the runtime's optimized graph runs in int8; raise `CompileError` where the plan is not met.

        `platform` is the target's, whose rules the graph is optimized by; this machine's unless given.
        """


def catalogue() -> list[Target]:
    """Every target that comes with the tool, by name."""
    return sorted(map(read_target, CATALOGUE.glob("*.toml")), key=lambda target: target.name)


def find_target(name: str) -> Target:
    """A target of the catalogue by name, or the user's own by the path of a TOML file."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise TargetError(f"the target file {name} does not exist. Give a path to a TOML file, or a name.")
        return read_target(path)
    known = {target.name: target for target in catalogue()}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise TargetError(f"there is no target {name!r}.{hint} Known: {', '.join(known)}; or the path of a TOML file.")


def read_target(path: Path) -> Target:
    """Read one target file; unknown, missing and impossible values are errors that name the file."""
    try:
        raw = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"the target file {path} is not valid TOML: {error}.") from None
    _check_keys(path, raw)
    try:
        return Target(
            name=raw.get("name", path.stem),
            description=raw["description"],
            platform=_one_of(raw["platform"], ("linux/amd64", "linux/arm64")),
            runtime=_one_of(raw["runtime"], ("onnxruntime",)),
            dialect=Dialect(raw["dialect"]),
            instruction_sets=tuple(raw["instruction_sets"]),
            base_image=raw["base_image"],
            channel_multiple=int(raw["channel_multiple"]),
            precisions=tuple(Precision(value) for value in raw["precisions"]),
            provable_at=tuple(Place(value) for value in raw["provable_at"]),
            required_place=Place(raw["required_place"]),
        )
    except (ValueError, TypeError) as error:
        raise TargetError(f"the target file {path} has a wrong value: {error}.") from None


def _check_keys(path: Path, raw: Mapping[str, Any]) -> None:
    fields = set(Target.__dataclass_fields__)
    for key in raw:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise TargetError(f"the target file {path} has an unknown key {key!r}.{hint}")
    missing = sorted(fields - set(raw) - {"name"})
    if missing:
        raise TargetError(f"the target file {path} lacks {', '.join(missing)}.")


def _one_of(value: Any, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise ValueError(f"{value!r} is not one of {', '.join(map(repr, allowed))}")
    return value
