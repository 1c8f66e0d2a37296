"""The properties of this machine that engines depend on: TensorRT with all four parts, CUDA, GPU, L4T, driver."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from targets.device.errors import ModelError
from targets.device.nvidia.cudart import Cuda

L4T_FILE = Path("etc/nv_tegra_release")
DRIVER_FILE = Path("proc/driver/nvidia/version")
PACKAGES_FILE = Path("var/lib/dpkg/status")
PLATFORMS = {"x86_64": "linux/amd64", "amd64": "linux/amd64", "aarch64": "linux/arm64", "arm64": "linux/arm64"}
PARTS = ("Major", "Minor", "Patch", "Build")


class MachineError(ModelError):
    """A property that engines depend on cannot be read here."""


@dataclass(frozen=True)
class Machine:
    """The properties of a machine that engines depend on."""

    tensorrt: str
    """Four parts, e.g. "10.3.0.30": NVIDIA requires all four to be equal."""
    cuda: str
    compute_capability: str
    gpu_name: str
    multiprocessors: int
    platform: str
    l4t: str
    """E.g. "36.4.3"; empty if this is not a Jetson."""
    driver: str
    """Version of the kernel module; empty on JetPack 5, whose driver is part of L4T."""
    memory_bytes: int
    """Total memory; on a Jetson shared with the CPU."""

    @property
    def instruction_set(self) -> str:
        """The GPU's architecture as in NVIDIA's tools, e.g. `sm_87`."""
        return f"sm_{self.compute_capability.replace('.', '')}"


def here(cuda: Optional[Cuda] = None) -> Machine:
    """Return this machine's properties; raise `CudaError` without a GPU and `MachineError` without TensorRT."""
    try:
        import tensorrt
    except ImportError as error:
        raise MachineError(
            f"TensorRT cannot be imported: {error}. Use one of NVIDIA's images that contain it; in a container on a "
            "Jetson, check that it was started with --runtime nvidia."
        ) from None
    asked = Cuda() if cuda is None else cuda
    return Machine(
        tensorrt=tensorrt_version(str(tensorrt.__version__)),
        cuda=asked.runtime_version(),
        compute_capability=asked.compute_capability(),
        gpu_name=asked.name(),
        multiprocessors=asked.multiprocessors(),
        platform=PLATFORMS.get(platform.machine().lower(), f"linux/{platform.machine()}"),
        l4t=l4t_version(),
        driver=driver_version(),
        memory_bytes=asked.memory()[1],
    )


def l4t_version(root: Path = Path("/")) -> str:
    """Return L4T's version from /etc/nv_tegra_release or the package nvidia-l4t-core; empty on other machines."""
    file = root / L4T_FILE
    if file.is_file():
        found = re.match(r"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", file.read_text(errors="replace"))
        if found is None:
            raise MachineError(f"{file} does not begin with an L4T release (# R36 (release), REVISION: 4.3, …).")
        return f"{found[1]}.{found[2]}"
    package = package_version("nvidia-l4t-core", root)
    return "" if package is None else package.split("-", 1)[0]


def driver_version(root: Path = Path("/")) -> str:
    """Return the version of the NVIDIA kernel module; empty if it does not report one (JetPack 5, or no driver)."""
    file = root / DRIVER_FILE
    if not file.is_file():
        return ""
    found = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", file.read_text(errors="replace"))
    if found is None:
        raise MachineError(f"{file} does not contain the version of the kernel module.")
    return found[1]


def tensorrt_version(reported: str, root: Path = Path("/"), library: Optional[Path] = None) -> str:
    """Return all four parts of the version, from Python if it has them, or else from the library or the package.

    TensorRT 10 reports three in Python ("10.3.0"), but 10.3.0.26 and 10.3.0.30 cannot load each other's engines.
    """
    if re.fullmatch(r"\d+\.\d+\.\d+\.\d+", reported):
        return reported
    major = reported.split(".", 1)[0]
    found = _library_version(str(library) if library is not None else f"libnvinfer.so.{major}")
    if found is None:
        package = package_version(f"libnvinfer{major}", root) or ""
        match = re.match(r"\d+\.\d+\.\d+\.\d+", package)
        found = match[0] if match is not None else None
    if found is None:
        raise MachineError(
            f"the fourth part of the version of TensorRT {reported}, on which engines depend, is unknown: neither its "
            f"library nor a package libnvinfer{major} has it. Install TensorRT from NVIDIA's packages or image."
        )
    if not found.startswith(f"{reported}."):
        raise MachineError(
            f"Python's TensorRT is {reported}, but the installed library is {found}. Install the same version of both."
        )
    return found


def package_version(package: str, root: Path = Path("/")) -> Optional[str]:
    """Return the version of a Debian package from dpkg's status file; None if it is not installed."""
    file = root / PACKAGES_FILE
    if not file.is_file():
        return None
    for entry in file.read_text(errors="replace").split("\n\n"):
        lines = entry.split("\n")
        if f"Package: {package}" in lines and "Status: install ok installed" in lines:
            return next((line.split(": ", 1)[1] for line in lines if line.startswith("Version: ")), None)
    return None


def _library_version(name: str) -> Optional[str]:
    """Return the version from the functions of TensorRT 10 and later; None if they are missing."""
    try:
        library = ctypes.CDLL(name, mode=os.RTLD_LAZY)
        numbers = [getattr(library, f"getInferLib{part}Version")() for part in PARTS]
    except (OSError, AttributeError):
        return None
    return ".".join(str(number) for number in numbers)
