"""What an engine is tied to, read from files as JetPack and NVIDIA's packages leave them."""

import ctypes.util
import shutil
import subprocess
from pathlib import Path

import pytest

from targets.device.nvidia import machine
from targets.device.nvidia.machine import (
    MachineError,
    driver_version,
    here,
    l4t_version,
    package_version,
    tensorrt_version,
)

# The packages of JetPack 6.2 as dpkg lists them, cut short.
PACKAGES = """Package: libnvinfer10
Status: install ok installed
Architecture: arm64
Version: 10.3.0.30-1+cuda12.5

Package: libnvinfer8
Status: deinstall ok config-files
Version: 8.6.2.3-1+cuda12.2

Package: nvidia-l4t-core
Status: install ok installed
Version: 36.4.3-20250107174145
"""


def write(root: Path, name: Path, text: str) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8", "36.4.3"),
        ("# R35 (release), REVISION: 6.4, GCID: 1, BOARD: t186ref\n# KERNEL_VARIANT: oot", "35.6.4"),
        ("# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic", "39.2.0"),
    ],
)
def test_l4t_is_read_from_its_release_file(tmp_path: Path, line: str, version: str) -> None:
    assert l4t_version(write(tmp_path, machine.L4T_FILE, line)) == version


def test_l4t_is_read_from_its_package_where_a_container_has_no_release_file(tmp_path: Path) -> None:
    assert l4t_version(write(tmp_path, machine.PACKAGES_FILE, PACKAGES)) == "36.4.3"


def test_another_machine_has_no_l4t(tmp_path: Path) -> None:
    assert l4t_version(tmp_path) == ""


def test_a_release_file_of_another_shape_is_no_guess(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="does not begin with an L4T release"):
        l4t_version(write(tmp_path, machine.L4T_FILE, "JetPack 6"))


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023", "535.129.03"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@x)",
            "540.4.0",
        ),
    ],
)
def test_the_driver_is_read_from_its_own_file(tmp_path: Path, line: str, version: str) -> None:
    assert driver_version(write(tmp_path, machine.DRIVER_FILE, line)) == version
    assert driver_version(tmp_path / "elsewhere") == ""
    write(tmp_path, machine.DRIVER_FILE, "nothing of the kind")
    with pytest.raises(MachineError, match="does not contain the version of the kernel module"):
        driver_version(tmp_path)


def test_packages_that_were_removed_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, machine.PACKAGES_FILE, PACKAGES)
    assert package_version("libnvinfer10", tmp_path) == "10.3.0.30-1+cuda12.5"
    assert package_version("libnvinfer8", tmp_path) is None
    assert package_version("libnvinfer", tmp_path) is None


def test_four_parts_from_python_need_nothing_else(tmp_path: Path) -> None:
    assert tensorrt_version("8.5.2.2", tmp_path) == "8.5.2.2"


def test_three_parts_are_completed_by_the_package(tmp_path: Path) -> None:
    write(tmp_path, machine.PACKAGES_FILE, PACKAGES)
    assert tensorrt_version("10.3.0", tmp_path) == "10.3.0.30"
    with pytest.raises(
        MachineError, match=r"Python's TensorRT is 10\.4\.0, but the installed library is 10\.3\.0\.30"
    ):
        tensorrt_version("10.4.0", tmp_path)
    with pytest.raises(MachineError, match=r"the fourth part of the version of TensorRT .* is unknown"):
        tensorrt_version("8.6.2", tmp_path)


def test_three_parts_are_completed_by_the_library(tmp_path: Path) -> None:
    """A library with the four functions of TensorRT 10, called for real."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    source, library = tmp_path / "version.c", tmp_path / "libnvinfer.so.10"
    parts = zip(("Major", "Minor", "Patch", "Build"), (10, 16, 2, 10), strict=True)
    source.write_text(
        "\n".join(f"int getInferLib{name}Version(void) {{ return {number}; }}" for name, number in parts)
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    assert tensorrt_version("10.16.2", tmp_path, library) == "10.16.2.10"
    with pytest.raises(MachineError, match=r"Python's TensorRT is 10\.3\.0"):
        tensorrt_version("10.3.0", tmp_path, library)


def test_a_library_that_does_not_say_is_not_asked_for_more(tmp_path: Path) -> None:
    """TensorRT 8 has none of the functions; any other library here has not, either."""
    write(tmp_path, machine.PACKAGES_FILE, PACKAGES)
    assert tensorrt_version("10.3.0", tmp_path, Path(ctypes.util.find_library("m") or "libm.so.6")) == "10.3.0.30"


def test_a_machine_without_tensorrt_says_what_to_do() -> None:
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        with pytest.raises(MachineError, match=r"TensorRT cannot be imported: .*NVIDIA's images.*--runtime nvidia"):
            here()
    else:
        pytest.skip("TensorRT is installed here")
