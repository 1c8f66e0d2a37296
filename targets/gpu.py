"""What a target with TensorRT states about its GPU and the software around it: the table `[gpu]` of its file."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictInt
from pydantic.dataclasses import dataclass

VERSION = r"\d+(?:\.\d+){1,3}"


def _like(pattern: str, description: str, example: str) -> object:
    return Field(pattern=f"^(?:{pattern})$", description=description, examples=[example])


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Gpu:
    """A family of NVIDIA modules or cards that one entry of the catalogue serves."""

    jetpack: Annotated[str, _like(rf"|{VERSION}(?:-{VERSION})?", "a version or a range of them, in quotes", "6.1-6.2")]
    """Releases of JetPack, e.g. `6.1-6.2`; empty for cards in a PC or server."""
    l4t: tuple[Annotated[str, _like(VERSION, "a version in quotes", "36.4")], ...]
    """Versions of Jetson Linux that are accepted, by their first parts: `36.4` stands for 36.4.0, 36.4.3, …"""
    tensorrt: Annotated[str, _like(VERSION, "a version in quotes", "10.3.0.30")]
    """As JetPack installs it, as many parts as are known; for cards the base image's."""
    compute_capability: tuple[Annotated[str, _like(r"\d+\.\d", "a version in quotes", "8.7")], ...]
    python: Annotated[str, _like(r"3\.\d+", "major and minor version in quotes", "3.10")]
    """Major and minor in the base image: what the device code must run on."""
    dla_cores: Annotated[StrictInt, Field(ge=0)]
    """Deep learning accelerators that this TensorRT can use, of most modules of the family; 0: none."""
    modules: tuple[Annotated[str, Field(min_length=1)], ...]
    """Names as NVIDIA writes them."""
    memory_gib: tuple[StrictInt, StrictInt]
    """Of the smallest and the largest module; CPU and GPU share it on a Jetson."""
    cuda: Annotated[str, _like(VERSION, "a version in quotes", "12.6")]
    int8: StrictBool
    """Whether the hardware multiplies in int8; without it TensorRT refuses Q/DQ networks."""
    driver: Annotated[str, _like(r"|>=\d+", "a least driver branch, or nothing on a Jetson", ">=580")]
    """The least driver branch of a card, e.g. `>=580`; empty on a Jetson, whose driver is part of L4T."""
    engine_build: Literal["device", "host"]
    """`device`: built on the device alone; `host`: also on a building machine that has such a card."""

    @property
    def is_jetson(self) -> bool:
        return bool(self.l4t)


def check_facts(gpu: Gpu) -> None:
    """Raise `ValueError` where facts contradict each other: half a Jetson, or nothing to match a device by."""
    if bool(gpu.jetpack) != bool(gpu.l4t):
        raise ValueError(f"jetpack = {gpu.jetpack!r} and l4t = {list(gpu.l4t)}: a Jetson has both, a card neither")
    if gpu.is_jetson and gpu.driver:
        raise ValueError(f"driver = {gpu.driver!r}: a Jetson's driver is part of L4T, leave it empty")
    if not gpu.compute_capability or not gpu.modules:
        raise ValueError("compute_capability and modules must name at least one each")
    smallest, largest = gpu.memory_gib
    if not 0 < smallest <= largest:
        raise ValueError(f"memory_gib = {list(gpu.memory_gib)} is not [smallest, largest] in whole GiB")
