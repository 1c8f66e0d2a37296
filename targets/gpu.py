"""The table `[gpu]` of a target file: the GPU of a TensorRT target and its software."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictInt
from pydantic.dataclasses import dataclass

VERSION = r"\d+(?:\.\d+){1,3}"


def _matching(pattern: str, description: str, example: str) -> object:
    return Field(pattern=f"^(?:{pattern})$", description=description, examples=[example])


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Gpu:
    """A family of NVIDIA modules or cards that one catalogue entry covers."""

    jetpack: Annotated[
        str, _matching(rf"|{VERSION}(?:-{VERSION})?", "a version or a range of them, in quotes", "6.1-6.2")
    ]
    """JetPack releases, e.g. `6.1-6.2`; empty for cards in a PC or server."""
    l4t: tuple[Annotated[str, _matching(VERSION, "a version in quotes", "36.4")], ...]
    """Accepted versions of Jetson Linux, as prefixes: `36.4` matches 36.4.0, 36.4.3, …"""
    tensorrt: Annotated[str, _matching(VERSION, "a version in quotes", "10.3.0.30")]
    """The version that JetPack installs, or for cards that of the base image; as many parts as are known."""
    compute_capability: tuple[Annotated[str, _matching(r"\d+\.\d", "a version in quotes", "8.7")], ...]
    python: Annotated[str, _matching(r"3\.\d+", "major and minor version in quotes", "3.10")]
    """Major and minor version in the base image, on which the device code runs."""
    dla_cores: Annotated[StrictInt, Field(ge=0)]
    """Number of DLA cores that this TensorRT can use on most modules of the family; 0: none."""
    modules: tuple[Annotated[str, Field(min_length=1)], ...]
    """Product names as NVIDIA writes them."""
    memory_gib: tuple[StrictInt, StrictInt]
    """Memory of the smallest and the largest module; on a Jetson, CPU and GPU share it."""
    cuda: Annotated[str, _matching(VERSION, "a version in quotes", "12.6")]
    int8: StrictBool
    """Whether the hardware has int8 arithmetic; without it TensorRT rejects networks with Q/DQ nodes."""
    driver: Annotated[str, _matching(r"|>=\d+", "a minimum driver branch, or an empty string on a Jetson", ">=580")]
    """Minimum driver branch of a card, e.g. `>=580`; empty on a Jetson, whose driver is part of L4T."""
    engine_build: Literal["device", "host"]
    """Where engines can be built. `device`: only on the device; `host`: also on a host that has such a card."""

    @property
    def is_jetson(self) -> bool:
        return bool(self.l4t)


def check_facts(gpu: Gpu) -> None:
    """Raise `ValueError` if fields contradict each other, or if no device can match them."""
    if bool(gpu.jetpack) != bool(gpu.l4t):
        raise ValueError(f"jetpack = {gpu.jetpack!r} and l4t = {list(gpu.l4t)}: a Jetson needs both, a card neither")
    if gpu.is_jetson and gpu.driver:
        raise ValueError(f"driver = {gpu.driver!r}: a Jetson's driver is part of L4T. Leave it empty")
    if not gpu.compute_capability or not gpu.modules:
        raise ValueError("compute_capability and modules need at least one entry each")
    smallest, largest = gpu.memory_gib
    if not 0 < smallest <= largest:
        raise ValueError(f"memory_gib = {list(gpu.memory_gib)} is not [smallest, largest] in whole GiB")
