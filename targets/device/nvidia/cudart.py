"""The functions of the CUDA runtime that inference needs, called through ctypes.

NVIDIA's base images have neither pycuda nor cuda-python, and both would add a version to keep in sync. Struct layouts
differ between CUDA 11, 12 and 13, so properties are queried one by one; only the name is read from a struct, of which
it is always the first field.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from types import TracebackType
from typing import Iterator, List, Optional, Tuple, Type

import numpy as np
from numpy.typing import NDArray

from targets.device.errors import ModelError

LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
TOOLKIT = Path("/usr/local/cuda/lib64")
TO_DEVICE, TO_HOST = 1, 2
MULTIPROCESSORS, CAPABILITY_MAJOR, CAPABILITY_MINOR = 16, 75, 76
# Much larger than cudaDeviceProp of any version (about 1 KiB), since the library writes the whole struct.
PROPERTIES_BYTES, NAME_BYTES, BUS_ID_BYTES = 16384, 256, 32
CURES = {
    2: "Stop other programs that use the GPU's memory, or build with a smaller max_batch.",
    35: "Update the NVIDIA driver, or use an image with an older CUDA; in a container, check that it was started with "
    "the NVIDIA runtime (--gpus all, on Jetson --runtime nvidia).",
    100: "Start the container with the NVIDIA runtime (--gpus all, on Jetson --runtime nvidia), and check that the "
    "user can read /dev/nvidia* (on Jetson: /dev/nvhost*, group video).",
}


class CudaError(ModelError):
    """CUDA is not available, or a CUDA call failed."""


class Cuda:
    """The loaded libcudart, with device 0."""

    def __init__(self, library: Optional[Path] = None) -> None:
        self._library = _load(library)
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def runtime_version(self) -> str:
        """Return the library's version, e.g. "12.6"."""
        return self._version("cudaRuntimeGetVersion")

    def driver_version(self) -> str:
        """Return the newest CUDA version that the driver supports; "0.0" without a driver."""
        return self._version("cudaDriverGetVersion")

    def name(self, device: int = 0) -> str:
        properties = ctypes.create_string_buffer(PROPERTIES_BYTES)
        self._call("cudaGetDeviceProperties", properties, ctypes.c_int(device))
        return properties.raw[:NAME_BYTES].split(b"\0", 1)[0].decode(errors="replace")

    def compute_capability(self, device: int = 0) -> str:
        return f"{self._attribute(CAPABILITY_MAJOR, device)}.{self._attribute(CAPABILITY_MINOR, device)}"

    def multiprocessors(self, device: int = 0) -> int:
        return self._attribute(MULTIPROCESSORS, device)

    def bus_id(self, device: int = 0) -> str:
        """Return the GPU's PCI bus ID, e.g. "0000:01:00.0", by which other libraries identify it."""
        text = ctypes.create_string_buffer(BUS_ID_BYTES)
        self._call("cudaDeviceGetPCIBusId", text, ctypes.c_int(BUS_ID_BYTES), ctypes.c_int(device))
        return text.value.decode(errors="replace")

    def memory(self) -> Tuple[int, int]:
        """Return free and total bytes; on a Jetson, of the memory that CPU and GPU share."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the device and return the address."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value or 0

    def free(self, address: int) -> None:
        self._call("cudaFree", ctypes.c_void_p(address))

    def create_stream(self) -> int:
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        return stream.value or 0

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def synchronize(self, stream: int) -> None:
        """Wait until everything queued on the stream is done."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def copy_to_device(self, address: int, array: NDArray[np.float32], stream: int) -> None:
        """Queue a copy of a contiguous array, which must stay alive until the stream is synchronized."""
        self._copy(address, array.ctypes.data, array, TO_DEVICE, stream)

    def copy_to_host(self, array: NDArray[np.float32], address: int, stream: int) -> None:
        """Queue a copy into a contiguous array, which is complete after the stream is synchronized."""
        self._copy(array.ctypes.data, address, array, TO_HOST, stream)

    def create_event(self) -> int:
        event = ctypes.c_void_p()
        self._call("cudaEventCreate", ctypes.byref(event))
        return event.value or 0

    def destroy_event(self, event: int) -> None:
        self._call("cudaEventDestroy", ctypes.c_void_p(event))

    def record(self, event: int, stream: int) -> None:
        self._call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def elapsed_ms(self, first: int, second: int) -> float:
        """Return the milliseconds between two recorded events; the second one must have completed."""
        elapsed = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(elapsed), ctypes.c_void_p(first), ctypes.c_void_p(second))
        return float(elapsed.value)

    def _copy(self, target: int, source: int, array: NDArray[np.float32], kind: int, stream: int) -> None:
        if not array.flags.c_contiguous:
            raise ValueError(f"only contiguous arrays can be copied; this one has strides {array.strides}.")
        size = ctypes.c_size_t(array.nbytes)
        pointers = (ctypes.c_void_p(target), ctypes.c_void_p(source))
        self._call("cudaMemcpyAsync", *pointers, size, ctypes.c_int(kind), ctypes.c_void_p(stream))

    def _attribute(self, attribute: int, device: int) -> int:
        value = ctypes.c_int()
        self._call("cudaDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), ctypes.c_int(device))
        return value.value

    def _version(self, function: str) -> str:
        number = ctypes.c_int()
        self._call(function, ctypes.byref(number))
        return f"{number.value // 1000}.{number.value % 1000 // 10}"

    def _call(self, function: str, *arguments: object) -> None:
        code = getattr(self._library, function)(*arguments)
        if code != 0:
            # Clear it, so that a later cudaGetLastError does not return this error.
            self._library.cudaGetLastError()
            text = self._library.cudaGetErrorString(ctypes.c_int(code)).decode(errors="replace")
            cure = CURES.get(code, "Restart the program; if the error recurs, restart the device.")
            raise CudaError(f"{function} failed with CUDA error {code}, {text}. {cure}")


class Buffers:
    """The device memory and stream of a model; a context manager."""

    def __init__(self, cuda: Cuda, sizes: Tuple[int, ...]) -> None:
        self._cuda = cuda
        self._addresses: List[int] = []
        self._stream: Optional[int] = None
        try:
            self.stream = self._stream = cuda.create_stream()
            for size in sizes:
                self._addresses.append(cuda.allocate(size))
        except CudaError:
            self.close()
            raise

    def __iter__(self) -> Iterator[int]:
        return iter(self._addresses)

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        addresses, self._addresses = self._addresses, []
        stream, self._stream = self._stream, None
        for address in addresses:
            self._cuda.free(address)
        if stream is not None:
            self._cuda.destroy_stream(stream)

    def __enter__(self) -> Buffers:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


def _load(library: Optional[Path]) -> ctypes.CDLL:
    names = [str(library)] if library is not None else list(_candidates())
    reasons = []
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            reasons.append(str(error))
    raise CudaError(
        f"the CUDA runtime (libcudart) cannot be loaded: {'; '.join(reasons)}. Install it (package cuda-cudart, wheel "
        "nvidia-cuda-runtime-cu12), or run in one of NVIDIA's images."
    )


def _candidates() -> Iterator[str]:
    """What the loader finds by itself, then the toolkit's folder, then the wheels of CUDA."""
    yield from LIBRARIES
    yield from (str(path) for path in sorted(TOOLKIT.glob("libcudart.so*")))
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        yield from (str(path) for path in sorted(Path(folder).glob("*/lib/libcudart.so*")))
