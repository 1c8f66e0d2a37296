"""TensorRT's own bindings of each version, made to be held against."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from script import load_script

ROOT = Path(__file__).parents[2]


GENERATIONS = {
    "8.5.3": ("weakly_typed.py", "Weak8"),
    "8.6.1": ("weakly_typed.py", "Weak8"),
    "10.3.0": ("weakly_typed.py", "Weak10"),
    "10.16.1": ("strongly_typed.py", "Strong"),
    "11.4.0": ("strongly_typed.py", "Strong"),
}


SCRIPT = load_script("scripts/trt_bindings.py")


MADE: dict[str, Any] = {}


def bindings_of(version: str, factory: pytest.TempPathFactory) -> Any:
    """A version's bindings, made once a run; the test is skipped, with the reason, where they cannot be had."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip("TensorRT's bindings for x86-64 Linux are checked")
    if version not in MADE:
        folder = factory.mktemp(f"tensorrt-{version}")
        try:
            MADE[version] = prepare(version, folder)
        except SCRIPT.Unavailable as error:
            MADE[version] = str(error)
    if isinstance(MADE[version], str):
        pytest.skip(f"TensorRT {version} cannot be checked: {MADE[version]}")
    return MADE[version]


def prepare(version: str, folder: Path) -> Any:
    if version != "8.5.3":
        return SCRIPT.prepare(version, folder)
    wheel, python = (os.environ.get(name) for name in ("TENSORRT_8_5_WHEEL", "PYTHON_3_10"))
    if not wheel or not python:
        raise SCRIPT.Unavailable("set TENSORRT_8_5_WHEEL and PYTHON_3_10")
    return SCRIPT.prepare_wheel(Path(wheel), folder, python=python)


@pytest.fixture(params=GENERATIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bindings(version: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return bindings_of(version, tmp_path_factory)
