"""What an NVIDIA target is beyond any other: versions that must match to the last part, and what its GPU can do."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pipeline.errors import TargetError


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The table `[gpu]` of a target's file; facts of NVIDIA's release notes, as each file's comments say."""

    jetpack: str
    """Releases of JetPack, e.g. `6.1-6.2`; empty for a GPU in a PC."""
    l4t: tuple[str, ...]
    """L4T releases (`R36.4`) by how they begin; empty for a GPU in a PC."""
    tensorrt: str
    """An engine runs on this TensorRT alone: four parts where the platform fixes them, else those of the image."""
    cuda: str
    compute_capability: tuple[str, ...]
    python: str
    """In the base image; 3.8 on JetPack 5."""
    dla_cores: int
    """The most that a module of the family has; see `modules_without_dla`."""
    modules: tuple[str, ...]
    modules_without_dla: tuple[str, ...]
    memory_gib: tuple[int, int]
    """Of the smallest and the largest module; GPU and CPU share it on a Jetson."""
    int8: bool
    """Whether its int8 is faster than fp16 at all."""
    driver: str
    """The least one, e.g. `535`; empty on a Jetson, where L4T brings it."""

    @property
    def is_jetson(self) -> bool:
        return bool(self.jetpack)


def gpu_from(raw: Mapping[str, Any]) -> Gpu:
    """The table as it stands in a file; raises ValueError for unknown, missing and wrong entries."""
    known = [field.name for field in fields(Gpu)]
    for key in raw:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise ValueError(f"[gpu] has an unknown key {key!r}.{f' Did you mean {close[0]}?' if close else ''}")
    missing = [name for name in known if name not in raw]
    if missing:
        raise ValueError(f"[gpu] lacks {', '.join(missing)}")
    smallest, largest = raw["memory_gib"]
    return Gpu(
        jetpack=str(raw["jetpack"]),
        l4t=_texts(raw["l4t"]),
        tensorrt=str(raw["tensorrt"]),
        cuda=str(raw["cuda"]),
        compute_capability=_texts(raw["compute_capability"]),
        python=str(raw["python"]),
        dla_cores=int(raw["dla_cores"]),
        modules=_texts(raw["modules"]),
        modules_without_dla=_texts(raw["modules_without_dla"]),
        memory_gib=(int(smallest), int(largest)),
        int8=_flag(raw["int8"]),
        driver=str(raw["driver"]),
    )


def check_dla(name: str, gpu: Gpu | None, *, module: str = "") -> None:
    """Raise `TargetError`, with what to do instead, where the target, or one module of it, has no DLA to build for."""
    if gpu is None:
        raise TargetError(f"the target {name} is a CPU: it has no DLA. Leave the DLA out.")
    if module and module not in gpu.modules:
        close = difflib.get_close_matches(module, gpu.modules, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise TargetError(f"the target {name} has no module {module!r}.{hint} Known: {', '.join(gpu.modules)}.")
    if module in gpu.modules_without_dla:
        raise TargetError(f"{module} has no DLA core. Build for its GPU: leave the DLA out.")
    if gpu.dla_cores == 0:
        reason = f"TensorRT {gpu.tensorrt} builds for none there" if gpu.is_jetson else "a GPU in a PC has none"
        raise TargetError(
            f"the target {name} has no DLA to build for: {reason}. Build for the GPU, or take orin-jp61 (JetPack 6.1 "
            "and 6.2, TensorRT 10.3) on an Orin NX or AGX Orin."
        )


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"int8 = {value!r}: true or false")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValueError(f"{value!r}: a list is expected, as [{value!r}]")
    return tuple(str(each) for each in value)
