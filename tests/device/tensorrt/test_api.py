"""Our calls of TensorRT against its own bindings of each version: every attribute exists and takes what it is given.

This proves the API, not the behaviour. The bindings are NVIDIA's, from its wheels; the libraries behind them are empty
(`scripts/trt_bindings.py`), so that they import on any machine and do nothing. What an engine does on a GPU is tested
by `tests/hardware/test_tensorrt_on_gpu.py`, where there is one.

TensorRT 8.5 has no wheel of its bindings alone; `TENSORRT_8_5_WHEEL` (the full wheel for CPython 3.10) and
`PYTHON_3_10` (with numpy) let it be checked, too.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorrt_bindings import GENERATIONS, ROOT, bindings, bindings_of, version

pytestmark = pytest.mark.slow

__all__ = ["bindings", "version"]

DEVICE = ROOT / "targets" / "device"
COMMON = ("log.py", "build.py", "session.py", "layer_report.py")
CONFIGURATION = """[mypy]
strict = True
warn_unused_ignores = False
follow_imports = silent
explicit_package_bases = True
"""


def complaints(bindings: Any, files: list[Path], folder: Path, *, root: Path = ROOT) -> list[str]:
    """What mypy says of `files` where `tensorrt` is that version; in other files it says nothing."""
    (folder / "mypy.ini").write_text(CONFIGURATION)
    # Shared by the tests of a version: what mypy knows of numpy and of the bindings need not be learned anew.
    cache = folder.parent / f"mypy-{bindings.version}"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", folder / "mypy.ini", "--cache-dir", cache, *files],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "MYPYPATH": f"{bindings.stubs}{os.pathsep}{root}"},
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    names = {path.relative_to(root).as_posix() for path in files}
    lines = [line for line in done.stdout.splitlines() if line.split(":")[0] in names and ": error: " in line]
    # Else a package that mypy did not find would look like one without complaints.
    assert "import-not-found" not in done.stdout
    return lines


def ours(version: str, *, device: Path = DEVICE) -> list[Path]:
    return [device / "tensorrt" / name for name in (*COMMON, GENERATIONS[version][0])]


def test_every_call_fits_the_bindings(version: str, bindings: Any, tmp_path: Path) -> None:
    assert bindings.version.startswith(f"{version}")
    assert complaints(bindings, ours(version), tmp_path) == []


REMOVED = {
    "8.6.1": ("strongly_typed.py", {"STRONGLY_TYPED"}),
    "11.4.0": (
        "weakly_typed.py",
        {"platform_has_fast_int8", "INT8", "platform_has_fast_fp16", "FP16", "EXPLICIT_BATCH"},
    ),
}


@pytest.mark.parametrize("version", REMOVED)
def test_what_a_version_lacks_would_be_found(version: str, bindings: Any, tmp_path: Path) -> None:
    """The other generation's file, held against this version: all that it lacks is complained of, and nothing else."""
    file, missing = REMOVED[version]
    found = complaints(bindings, [DEVICE / "tensorrt" / file], tmp_path)
    assert {match for line in found for match in re.findall(r'has no attribute "(\w+)"', line)} == missing
    assert len(found) == len(missing)


WRONG = {
    "a method that is not there": ("session.py", "execute_async_v3(", "execute_async_v2(", "execute_async_v2"),
    "a property that is not there": ("build.py", "builder.num_DLA_cores", "builder.dla_cores", "dla_cores"),
    "a flag that is not there": ("build.py", "BuilderFlag.GPU_FALLBACK", "BuilderFlag.FALLBACK", "FALLBACK"),
    "an argument too few": ("build.py", "set_timing_cache(cache, False)", "set_timing_cache(cache)", "ignore_mis"),
    "an argument of another type": ("session.py", "trt.Dims([batch,", "str([batch,", "set_input_shape"),
    "a call of a property": ("build.py", "parser.num_errors)", "parser.num_errors())", "not callable"),
}


@pytest.mark.parametrize("change", WRONG)
@pytest.mark.parametrize("version", ["11.4.0"])
def test_a_wrong_call_fails(version: str, bindings: Any, change: str, tmp_path: Path) -> None:
    file, right, wrong, message = WRONG[change]
    copy = tmp_path / "tree" / "targets"
    shutil.copytree(DEVICE, copy / "device", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__init__.py").touch()
    text = (copy / "device" / "tensorrt" / file).read_text()
    assert right in text
    (copy / "device" / "tensorrt" / file).write_text(text.replace(right, wrong))
    found = complaints(bindings, ours(version, device=copy / "device"), tmp_path, root=tmp_path / "tree")
    assert found
    assert message in "\n".join(found)


def run(bindings: Any, code: str) -> str:
    """Run with the real bindings and the empty libraries; numpy comes from this environment."""
    done = subprocess.run(
        [bindings.python, "-c", code], capture_output=True, text=True, env=bindings.environment(ROOT), timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_each_version_is_spoken_to_by_its_generation(version: str, bindings: Any) -> None:
    """And not by another: the class is taken by the version that the bindings themselves report."""
    code = (
        "import tensorrt\n"
        "from targets.device.tensorrt.build import generation_of\n"
        "print(type(generation_of(tensorrt.__version__)).__name__)"
    )
    assert run_or_skip(bindings, code) == GENERATIONS[version][1]


def test_without_a_gpu_the_build_says_so(version: str, bindings: Any, tmp_path: Path) -> None:
    """The binding finds no builder, as without a driver; its TypeError about C++ becomes a sentence."""
    model = tmp_path / "model.onnx"
    model.touch()
    code = (
        "from pathlib import Path\n"
        "from targets.device.errors import BuildError\n"
        "from targets.device.tensorrt.build import Order, build\n"
        "try:\n"
        f"    build(Order(onnx=Path({str(model)!r}), precision='fp16', max_batch=8, memory_bytes=8 << 30))\n"
        "except BuildError as error:\n"
        "    print(error)"
    )
    said = run_or_skip(bindings, code)
    assert re.match(rf"TensorRT {re.escape(bindings.version)} cannot start here: .*It needs an NVIDIA GPU", said), said


def test_errors_come_through_tensorrts_own_logger(version: str, bindings: Any) -> None:
    """Our logger is one of TensorRT's, and sorts what it is told by TensorRT's own severities."""
    code = (
        "import tensorrt as trt\n"
        "from targets.device.tensorrt.log import Log\n"
        "log = Log()\n"
        "assert isinstance(log, trt.ILogger)\n"
        "for name in ('VERBOSE', 'INFO', 'WARNING', 'ERROR', 'INTERNAL_ERROR'):\n"
        "    log.log(getattr(trt.ILogger.Severity, name), f'{name} said. ')\n"
        "print(log.warnings, log.reason())\n"
        "for number in range(20):\n"
        "    log.log(trt.ILogger.Severity.ERROR, str(number))\n"
        "assert log.reason().endswith('; 8; and 11 more'), log.reason()"
    )
    assert run_or_skip(bindings, code) == "['WARNING said.'] ERROR said; INTERNAL_ERROR said"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("precision='int4'", "precision is 'int4'; use one of fp32, fp16, int8"),
        ("best_batch=9", "best_batch is 9; use a number from 1 to max_batch, 8"),
        ("best_batch=0", "best_batch is 0"),
        ("onnx=Path('absent.onnx')", "the model absent.onnx does not exist"),
    ],
)
@pytest.mark.parametrize("version", ["11.4.0"])
def test_an_order_that_cannot_be_filled_is_refused(
    version: str, bindings: Any, change: str, message: str, tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    model.touch()
    code = (
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from targets.device.tensorrt.build import *\n"
        f"order = Order(onnx=Path({str(model)!r}), precision='fp16', max_batch=8, memory_bytes=8 << 30)\n"
        "try:\n"
        f"    build(replace(order, {change}))\n"
        "except BuildError as error:\n"
        "    print(error)"
    )
    assert message in run_or_skip(bindings, code)


@pytest.mark.parametrize("version", ["8.6.1", "10.16.1"])
def test_a_file_is_built_in_no_precision_but_its_own(version: str, bindings: Any) -> None:
    """Each generation's rule of which file a precision is built from, spelled out."""
    code = (
        "import tensorrt\n"
        "from targets.device.tensorrt.build import generation_of\n"
        "made = generation_of(tensorrt.__version__)\n"
        "for precision in ('fp32', 'fp16', 'int8'):\n"
        "    for quantized in (False, True):\n"
        "        for half in (False, True):\n"
        "            if made.refusal(precision, quantized, half) is None:\n"
        "                print(precision, 'Q/DQ' if quantized else 'plain', 'half' if half else 'float', end=', ')"
    )
    weak = "fp32 plain float, fp16 plain float, int8 Q/DQ float,"
    strong = "fp32 plain float, fp16 plain half, int8 Q/DQ float, int8 Q/DQ half,"
    assert run_or_skip(bindings, code) == (weak if version == "8.6.1" else strong)


@pytest.mark.parametrize("version", ["10.3.0"])
def test_workspace_and_timing_cache_follow_the_device(version: str, bindings: Any) -> None:
    code = (
        "from pathlib import Path\n"
        "from targets.device.nvidia.machine import Machine\n"
        "from targets.device.tensorrt.build import timing_cache_file, workspace_bytes\n"
        "print([workspace_bytes(gib << 30) >> 20 for gib in (0, 4, 8, 64)])\n"
        "here = Machine('10.3.0.30', '12.6', '8.7', 'Orin (nvgpu)', 16, 'linux/arm64', '36.4.3', '540.4.0', 1)\n"
        "print(timing_cache_file(Path('caches'), here))"
    )
    expected = "[64, 1024, 2048, 4096]\ncaches/timing-10.3.0.30-orin-nvgpu-sm87x16.cache"
    assert run_or_skip(bindings, code) == expected


def test_too_old_a_tensorrt_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    bindings = bindings_of("8.6.1", tmp_path_factory)
    code = (
        "from targets.device.tensorrt.build import BuildError, generation_of\n"
        "try:\n"
        "    generation_of('8.2.1.9')\n"
        "except BuildError as error:\n"
        "    print(error)"
    )
    assert "TensorRT 8.2.1.9 is too old: the oldest supported version is 8.5 (JetPack 5.1)" in run_or_skip(
        bindings, code
    )


def run_or_skip(bindings: Any, code: str) -> str:
    """Another interpreter than this one may lack numpy; the signatures are checked all the same."""
    if bindings.python != sys.executable:
        asked = subprocess.run([bindings.python, "-c", "import numpy"], capture_output=True)
        if asked.returncode != 0:
            pytest.skip(f"{bindings.python} has no numpy")
    return run(bindings, code)
