"""The house rules that a program can check."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.run import OF_TENSORRT
from pipeline.workspace.code_version import modules_of

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for package in ("pipeline", "targets") for path in (ROOT / package).rglob("*.py"))
# A generator's files are as long as it makes them, and nobody reads them.
GENERATED = ROOT / "targets" / "device" / "grpc" / "open_inference_pb2.py"
SOURCES.remove(GENERATED)
IDS = [path.relative_to(ROOT).as_posix() for path in SOURCES]
MAX_LINES, MAX_OF_A_FUNCTION, MAX_PARAMETERS = 500, 60, 8
# A package, or a module beside them, imports only what stands in earlier rows. docs/architecture.md says why.
PIPELINE = (
    {"artifacts", "progress", "toml_errors", "untrusted"},
    {"errors"},
    {"process", "targets"},
    {"workspace", "recipe"},
    {"models", "data", "containers"},
    {"workplace", "results"},
    {"training", "run", "benchmarking"},
    {"load"},
    {"quantize"},
    {"export", "latency"},
    {"prune", "compile"},
    {"validate", "estimate"},
    {"package"},
    {"devices"},
    {"outcome"},
    {"report"},
    {"build"},
    {"plan"},
    {"cli"},
    {"__main__"},
)
TARGETS = (
    {"device", "dialects", "shipped"},
    {"gpu"},
    {"target"},
    {"capabilities", "host", "base_images", "runtimes"},
)
DEVICE = (
    {"errors", "files", "log", "healthcheck"},
    {"model", "nvidia", "progress"},
    {"settings", "sensors", "gate"},
    {"bench"},
    {"measurements"},
    {"tensorrt"},
    {"open_session"},
    {"selftest"},
    {"server"},
    {"grpc", "prove"},
    {"serve"},
    {"__main__"},
)
JUDGEMENT = "targets.device.gate.judgement"
"""What the device's gate says is what the build's report adds to; it imports nothing of ours."""
OF_PIPELINE_IN_TARGETS = ("artifacts", "errors", "toml_errors")
WORK = {
    "load": "load.load",
    "profile": "latency.profile",
    "prune": "prune.prune",
    "quantize": "quantize.quantize",
    "mixed precision": "quantize.mixed_precision",
    "export": "export.export",
    "compile": "compile.compile",
    "shard": "validate.shard",
    "predictions": "validate.measure",
}
"""The code in each stage's key."""


def imports(path: Path) -> set[str]:
    """Dotted names; of `from package import name` both, as the name may be a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_files_and_functions_are_short(path: Path) -> None:
    assert path.read_text().count("\n") <= MAX_LINES
    for each in functions(path):
        assert each.end_lineno is not None
        assert each.end_lineno - each.lineno < MAX_OF_A_FUNCTION, each.name


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_functions_have_few_parameters(path: Path) -> None:
    for each in functions(path):
        names = [a.arg for a in (*each.args.posonlyargs, *each.args.args, *each.args.kwonlyargs)]
        assert len([name for name in names if name not in ("self", "cls")]) <= MAX_PARAMETERS, each.name


def test_packages_import_nothing_for_others() -> None:
    """A re-export would pull a package into every cache key."""
    faces = [path for path in SOURCES if path.name == "__init__.py" and path.parent.name != "pipeline"]
    assert len(faces) > 20
    ours = ("pipeline", "targets")
    assert [path for path in faces if any(name.split(".")[0] in ours for name in imports(path))] == []


def row_of(name: str, rows: Sequence[set[str]]) -> int:
    found = [number for number, row in enumerate(rows) if name in row]
    assert len(found) == 1, f"{name} stands in no row: say in the table above what may import it"
    return found[0]


def rooms(module: str) -> tuple[str, str] | None:
    """`device`, `targets` or `pipeline`, and the part of it that a module belongs to."""
    parts = module.split(".")
    if parts[:2] == ["targets", "device"] and len(parts) > 2:
        return "device", parts[2]
    return (parts[0], parts[1]) if len(parts) > 1 and not parts[1].startswith("__v") else None


def may_import(importer: str, imported: str) -> bool:
    (house, room), other = rooms(importer) or ("", ""), rooms(imported)
    if other is None or (house, room) == other:
        return True
    if house == "device":
        return other[0] == "device" and row_of(other[1], DEVICE) < row_of(room, DEVICE)
    if house == "targets":
        if other[0] == "pipeline":
            return other[1] in OF_PIPELINE_IN_TARGETS
        name = "device" if other[0] == "device" else other[1]
        return name == room or row_of(name, TARGETS) < row_of(room, TARGETS)
    if imported == JUDGEMENT:
        return True
    name = other[1] if other[0] == "pipeline" else "targets"
    return row_of(name, PIPELINE) < row_of(room, PIPELINE)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_imports_point_one_way(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    ours = {name for name in imports(path) if name.split(".")[0] in ("pipeline", "targets") and is_module(name)}
    # A package stands for itself where something of it is named: `targets.device` for `targets.device.model`.
    named = {name for name in ours if not any(other.startswith(f"{name}.") for other in ours)}
    if rooms(module) is not None and path.name != "__init__.py":
        assert [name for name in sorted(named) if not may_import(module, name)] == []
    if module.startswith("targets.device."):
        assert not imports(path) & {"torch", "pydantic", "scipy", "docker"}


@pytest.mark.parametrize(
    ("importer", "imported", "is_allowed"),
    [
        ("pipeline.prune.prune", "pipeline.latency.table", True),
        ("pipeline.prune.prune", "pipeline.prune.report", True),
        ("pipeline.prune.prune", "pipeline.compile.compile", False),
        ("pipeline.workspace.store", "pipeline.cli.app", False),
        ("targets.target", "pipeline.artifacts", True),
        ("targets.target", "pipeline.recipe", False),
        ("targets.device.server.service", "targets.device.model.manifest", True),
        ("targets.device.model.manifest", "targets.device.server.service", False),
        ("targets.device.model.manifest", "targets.target", False),
    ],
)
def test_the_rule_says_no_where_it_should(importer: str, imported: str, is_allowed: bool) -> None:
    assert may_import(importer, imported) is is_allowed


@pytest.mark.parametrize("stage", WORK)
def test_a_stages_key_holds_what_its_result_depends_on_and_no_more(stage: str) -> None:
    """Shown with `pytest -s`, so that a review sees them grow."""
    modules = sorted(modules_of(f"pipeline.{WORK[stage]}", leave_out=OF_TENSORRT))
    sys.stdout.write(f"\n{stage}: {len(modules)} modules\n  " + "\n  ".join(modules) + "\n")
    of_pipeline = "report|cli|recipe|devices|build|plan|run|results|outcome|benchmarking"
    stray = re.compile(rf"pipeline\.({of_pipeline})\b|.*tensorrt")
    assert [name for name in modules if stray.match(name)] == []


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
        "import sys, pipeline.build, pipeline.plan, pipeline.cli.app, targets.target\n"
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
