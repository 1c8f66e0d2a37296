"""Calls of the CUDA runtime: what is passed, against a library in C that checks it; NVIDIA's own, where there is none.

The library in C keeps "device" memory on the host and refuses what CUDA would refuse. It proves how arguments cross
from Python to C, nothing about a GPU. NVIDIA's real libcudart comes from its wheels: it has every function under its
name in CUDA 11, 12 and 13, and without a GPU it answers with its real errors.
"""

import ctypes
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny_cuda import alive, library

from targets.device.nvidia import cudart
from targets.device.nvidia.cudart import Buffers, Cuda, CudaError

__all__ = ["library"]

WHEELS = {
    "11": "nvidia-cuda-runtime-cu11==11.8.89",
    "12": "nvidia-cuda-runtime-cu12==12.9.79",
    "13": "nvidia-cuda-runtime==13.5.37",
}


@pytest.fixture
def cuda(library: Path) -> Cuda:
    return Cuda(library)


def test_versions_and_properties(cuda: Cuda) -> None:
    assert (cuda.runtime_version(), cuda.driver_version()) == ("12.6", "13.2")
    assert (cuda.name(), cuda.compute_capability(), cuda.multiprocessors()) == ("Orin", "8.7", 14)
    assert cuda.bus_id() == "0000:41:00.0"
    # More than 32 bits hold.
    assert cuda.memory() == (5_000_000_000, 8_000_000_000)


def test_what_was_copied_there_comes_back(cuda: Cuda) -> None:
    sent = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    back = np.zeros_like(sent)
    with Buffers(cuda, (sent.nbytes, 64)) as buffers:
        first, second = buffers
        # Beyond 32 bits: a pointer cut to an int would show here.
        assert min(first, second, buffers.stream) > 1 << 32
        cuda.copy_to_device(first, sent, buffers.stream)
        cuda.copy_to_host(back, first, buffers.stream)
        cuda.synchronize(buffers.stream)
    assert np.array_equal(sent, back)


def test_arrays_with_gaps_are_refused(cuda: Cuda) -> None:
    with Buffers(cuda, (1024,)) as buffers, pytest.raises(ValueError, match="only contiguous arrays"):
        cuda.copy_to_device(next(iter(buffers)), np.zeros((8, 8), np.float32)[:, ::2], buffers.stream)


def test_events_tell_milliseconds(cuda: Cuda) -> None:
    with Buffers(cuda, ()) as buffers:
        first, second = cuda.create_event(), cuda.create_event()
        cuda.record(first, buffers.stream)
        cuda.record(second, buffers.stream)
        assert cuda.elapsed_ms(first, second) == 1.5
        cuda.destroy_event(first)
        cuda.destroy_event(second)


def test_everything_is_freed_also_where_memory_runs_out(cuda: Cuda, library: Path) -> None:
    before = alive(library)
    with pytest.raises(CudaError, match=r"cudaMalloc failed with CUDA error 2, out of memory\. Stop other programs"):
        Buffers(cuda, (1024, 1 << 30))
    assert alive(library) == before
    buffers = Buffers(cuda, (1024,))
    buffers.close()
    buffers.close()
    assert alive(library) == before


def test_an_error_is_told_once(cuda: Cuda, library: Path) -> None:
    with pytest.raises(CudaError, match="cudaStreamSynchronize failed with CUDA error 400, invalid argument"):
        cuda.synchronize(0)
    assert ctypes.CDLL(str(library)).lastError() == 0


def test_a_machine_without_cuda_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CudaError, match=r"libcudart\) cannot be loaded: .*absent\.so.*nvidia-cuda-runtime"):
        Cuda(tmp_path / "absent.so")


@pytest.fixture(scope="module", params=WHEELS)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NVIDIA's own library of one CUDA."""
    folder = tmp_path_factory.mktemp(f"cuda-{request.param}")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
    done = subprocess.run([*command, WHEELS[request.param]], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"{WHEELS[request.param]} cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if "libcudart.so" in name)
        return Path(wheel.extract(name, folder))


def test_nvidias_library_has_every_function(real: Path) -> None:
    asked = set(re.findall(r"\bcuda[A-Z]\w+(?=[\"(.])", Path(cudart.__file__).read_text()))
    assert len(asked) >= 17
    loaded = ctypes.CDLL(str(real))
    assert [name for name in sorted(asked) if not hasattr(loaded, name)] == []


@pytest.mark.skipif(Path("/dev/nvidiactl").exists() or Path("/dev/nvhost-gpu").exists(), reason="there is a GPU here")
def test_nvidias_library_says_that_there_is_no_gpu(real: Path) -> None:
    cuda = Cuda(real)
    assert cuda.driver_version() == "0.0"
    with pytest.raises(CudaError, match=r"failed with CUDA error (35|100), .*runtime nvidia"):
        cuda.name()
