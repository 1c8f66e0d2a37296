"""The house rules that a program can check."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for package in ("pipeline", "targets") for path in (ROOT / package).rglob("*.py"))
# A generator's files are as long as it makes them, and nobody reads them.
GENERATED = ROOT / "targets" / "device" / "grpc" / "open_inference_pb2.py"
SOURCES.remove(GENERATED)
IDS = [path.relative_to(ROOT).as_posix() for path in SOURCES]
STAGES = ("prune", "quantize", "rescue", "export", "compile", "validate", "package", "load", "shard", "train")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_imports_point_one_way(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    ours = {module for module in imports(path) if module.split(".")[0] in ("pipeline", "targets")}
    if name.startswith("targets/device/"):
        assert not {module for module in ours if not module.startswith("targets.device")}
        assert not imports(path) & {"torch", "pydantic", "scipy", "docker"}
    elif name.startswith("targets/"):
        allowed = ("artifacts", "errors", "hashing", "progress", "process")
        stray = {m for m in ours if m.startswith("pipeline.") and m.split(".")[1] not in allowed}
        assert not stray
    elif path.stem in STAGES and path.parent.name == "pipeline":
        others = {f"pipeline.{stage}" for stage in STAGES if stage != path.stem}
        assert not ours & (others | {"pipeline.build", "pipeline.cli.app", "pipeline.steps"})


@pytest.mark.parametrize("path", [GENERATED, *(p for p in SOURCES if "device" in p.parts)], ids=lambda p: p.name)
def test_device_code_parses_as_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    assert not [node for node in ast.walk(tree) if type(node).__name__ == "Match"]
    if path.stem != "__init__":
        assert "from __future__ import annotations" in path.read_text()


def test_docker_is_no_package_of_ours() -> None:
    assert not (ROOT / "docker" / "__init__.py").exists()


def test_planning_needs_no_heavy_library() -> None:
    code = (
        "import sys, pipeline.build, pipeline.steps, pipeline.compile.result, targets.target\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'sklearn', 'scipy', 'docker', 'torch_pruning'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert shown.stdout.strip() == "[]"


def test_the_repository_names_no_machine_of_its_makers() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.split():
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".txt", ".sh", ""):
            text = path.read_text(errors="replace")
            assert not re.search(r"(?<![\w$])/(root|work)/", text) or name == "tests/test_layout.py", name
