"""The TensorRT runtime on a host without TensorRT or GPU; with one, see `tests/hardware/test_tensorrt_on_gpu.py`."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorrt_bindings import ROOT, bindings_of
from tiny_quantized import exported

from pipeline.artifacts import Dialect, Precision
from pipeline.errors import CompileError
from targets.device.tensorrt.passport import PassportError
from targets.runtimes.base import Runtime
from targets.runtimes.tensorrt.runtime import MAX_BATCH, TensorRt, _compile_errors
from targets.target import find_target

without_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here"
)


def test_it_is_a_runtime() -> None:
    runtime: Runtime = TensorRt()
    options = runtime.session_options(find_target("cpu"), threads=2)
    assert options == {"max_batch": MAX_BATCH, "threads": 2}


@without_tensorrt
def test_without_tensorrt_every_use_says_what_to_install(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runtime = TensorRt()
    model = exported("option A", tmp_path_factory).models[Dialect.TENSORRT]
    options = runtime.session_options(find_target("cpu"), threads=1)
    message = r"TensorRT (cannot be imported|is not installed here).*image"
    with pytest.raises(CompileError, match=message):
        _ = runtime.version
    with pytest.raises(CompileError, match=message):
        runtime.build(model.path, tmp_path, precision=Precision.INT8)
    with pytest.raises(CompileError, match=message):
        runtime.open(model.path, options=options)
    with pytest.raises(CompileError, match=message):
        runtime.open(tmp_path / "model.engine", options=options)
    with pytest.raises(CompileError, match=message):
        runtime.time([model.path], options=options)
    with pytest.raises(CompileError, match=message):
        runtime.audit(model, options=options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU here")
def test_with_tensorrt_and_no_gpu_the_gpu_is_what_is_missing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The real bindings of 11.4 import; then CUDA says what it lacks."""
    bindings: Any = bindings_of("11.4.0", tmp_path_factory)
    code = (
        "from pipeline.errors import CompileError\n"
        "from targets.runtimes.tensorrt.runtime import TensorRt\n"
        "try:\n"
        "    TensorRt().machine()\n"
        "except CompileError as error:\n"
        "    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=bindings.environment(ROOT), timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "libcudart" in done.stdout or "CUDA error" in done.stdout
    assert "TensorRT cannot be imported" not in done.stdout


def test_an_open_engine_is_never_given_to_tensorrt_without_its_passport(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The session of the real bindings, whose library would answer nothing: it does not come so far."""
    bindings: Any = bindings_of("11.4.0", tmp_path_factory)
    (tmp_path / "model.engine").write_bytes(b"no engine")
    code = (
        "from pathlib import Path\n"
        "from targets.device.nvidia.machine import Machine\n"
        "from targets.device.tensorrt.passport import PassportError, issue\n"
        "from targets.device.tensorrt.session import TensorRtSession\n"
        "from targets.device.errors import SessionError\n"
        f"engine = Path({str(tmp_path / 'model.engine')!r})\n"
        "here = Machine('11.4.0.106', '13.2', '9.0', 'H100', 132, 'linux/amd64', '', '580.0', 80 << 30)\n"
        "there = Machine('11.4.0.106', '13.2', '8.9', 'L4', 58, 'linux/amd64', '', '580.0', 24 << 30)\n"
        "def show():\n"
        "    try:\n"
        "        TensorRtSession(engine, cuda=object(), here=here)\n"
        "    except (PassportError, SessionError) as error:\n"
        "        print(type(error).__name__, error)\n"
        "show()\n"
        "made = dict(precision='fp16', dla_core=None, timing_cache=None, built_at_place='device', tool='0.1.0')\n"
        "issue(there, engine, engine, **made).write(engine.parent)\n"
        "show()\n"
        "issue(here, engine, engine, **made).write(engine.parent)\n"
        "show()\n"
        "engine.write_bytes(b'another')\n"
        "show()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=bindings.environment(ROOT), timeout=120
    )
    assert done.returncode == 0, done.stderr
    none, elsewhere, fits, changed = done.stdout.splitlines()
    assert none.startswith("PassportError")
    assert "has no passport" in none
    assert elsewhere.startswith("PassportError compute_capability is '9.0' here, but the engine was built with '8.9'")
    assert fits.startswith("SessionError TensorRT 11.4.0.106 cannot start here")
    assert changed.startswith("PassportError engine_sha256 of ")


def test_errors_of_the_device_code_become_the_hosts() -> None:
    with pytest.raises(CompileError, match="the engine is from elsewhere"), _compile_errors():
        raise PassportError("the engine is from elsewhere")
    with pytest.raises(ModuleNotFoundError), _compile_errors():
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")
