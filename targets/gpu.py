"""What a target with TensorRT states about its GPU and the software around it: the table `[gpu]` of its file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from targets.toml_fields import check_keys, one_of, text, texts, truth, whole

VERSION = r"\d+(\.\d+){1,3}"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A family of NVIDIA modules or cards that one entry of the catalogue serves."""

    jetpack: str
    """Releases of JetPack, e.g. `6.1-6.2`; empty for cards in a PC or server."""
    l4t: tuple[str, ...]
    """Versions of Jetson Linux that are accepted, by their first parts: `36.4` stands for 36.4.0, 36.4.3, …"""
    tensorrt: str
    """As JetPack installs it, as many parts as are known; for cards the base image's."""
    compute_capability: tuple[str, ...]
    python: str
    """Major and minor in the base image: what the device code must run on."""
    dla_cores: int
    """Deep learning accelerators that this TensorRT can use, of most modules of the family; 0: none."""
    modules: tuple[str, ...]
    """Names as NVIDIA writes them."""
    memory_gib: tuple[int, int]
    """Of the smallest and the largest module; CPU and GPU share it on a Jetson."""
    cuda: str
    int8: bool
    """Whether the hardware multiplies in int8; without it TensorRT refuses Q/DQ networks."""
    driver: str
    """The least driver branch of a card, e.g. `>=580`; empty on a Jetson, whose driver is part of L4T."""
    engine_build: Literal["device", "host"]
    """`device`: built on the device alone; `host`: also on a building machine that has such a card."""

    @property
    def is_jetson(self) -> bool:
        return bool(self.l4t)


def read_gpu(path: Path, raw: Any) -> Gpu:
    """The table `[gpu]` of a target's file.

    Raises `TargetError` for unknown and missing keys, and `ValueError` for values that cannot be.
    """
    if not isinstance(raw, Mapping):
        raise ValueError(f"gpu = {raw!r} is not a table; write [gpu] and its keys below it")
    check_keys(path, raw, known=[field.name for field in fields(Gpu)], table="gpu")
    gpu = Gpu(
        jetpack=text(raw, "jetpack", rf"|{VERSION}(-{VERSION})?", like="6.1-6.2"),
        l4t=texts(raw, "l4t", VERSION, like="36.4"),
        tensorrt=text(raw, "tensorrt", VERSION, like="10.3.0.30"),
        compute_capability=texts(raw, "compute_capability", r"\d+\.\d", like="8.7"),
        python=text(raw, "python", r"3\.\d+", like="3.10"),
        dla_cores=whole(raw, "dla_cores", least=0),
        modules=texts(raw, "modules"),
        memory_gib=_range(raw["memory_gib"]),
        cuda=text(raw, "cuda", VERSION, like="12.6"),
        int8=truth(raw, "int8"),
        driver=text(raw, "driver", r"|>=\d+", like=">=580"),
        engine_build=one_of(raw["engine_build"], ("device", "host")),
    )
    _check_whole(gpu)
    return gpu


def _check_whole(gpu: Gpu) -> None:
    """Raise `ValueError` where facts contradict each other: half a Jetson, or nothing to match a device by."""
    if bool(gpu.jetpack) != bool(gpu.l4t):
        raise ValueError(f"jetpack = {gpu.jetpack!r} and l4t = {list(gpu.l4t)}: a Jetson has both, a card neither")
    if gpu.is_jetson and gpu.driver:
        raise ValueError(f"driver = {gpu.driver!r}: a Jetson's driver is part of L4T, leave it empty")
    if not gpu.compute_capability or not gpu.modules:
        raise ValueError("compute_capability and modules must name at least one each")


def _range(value: Any) -> tuple[int, int]:
    is_pair = isinstance(value, list) and len(value) == 2 and all(type(each) is int for each in value)
    if not is_pair or not 0 < value[0] <= value[1]:
        raise ValueError(f"memory_gib = {value!r} is not [smallest, largest] in whole GiB")
    return value[0], value[1]
