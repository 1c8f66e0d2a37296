"""TensorRT's Python bindings without TensorRT: real signatures on any x86-64 Linux, to test calls against.

    python scripts/trt_bindings.py FOLDER [VERSION ...]

For each version: downloads the wheel of the bindings (1 MB, without libraries), compiles stub libraries with the names
it needs, so that it can be imported, and writes its typed signatures to FOLDER/VERSION/stubs. That shows which
attributes exist and their parameters, but not their behavior.

TensorRT 8.5 has no such wheel. `--wheel FILE --python PYTHON` uses its full one (550 MB, `pip download --no-deps
--python-version 3.10 --only-binary :all: tensorrt==8.5.3.1`) and a CPython 3.10; only the bindings are extracted.
"""

import argparse
import ast
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

WHEELS = {
    "8.6.1": "tensorrt_bindings==8.6.1",
    "10.3.0": "tensorrt_cu12_bindings==10.3.0",
    "10.16.1": "tensorrt_cu13_bindings==10.16.1.11",
    "11.4.0": "tensorrt_cu13_bindings==11.4.0.106",
}
PACKAGE = "tensorrt"
# Symbols that the bindings need from the libraries; the last four are C++ symbols of the parsers in TensorRT 8.
ASKED_FOR = (
    "createInferBuilder_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getNvOnnxParserVersion",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "initLibNvInferPlugins",
    "_ZN11nvuffparser15createUffParserEv",
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
)
NEEDED = re.compile(r"\(NEEDED\).*\[(libnv[^\]]+)\]")
# Prints the names of the classes with tp_as_buffer set, the 21st word of a type on 64-bit CPython.
BUFFERS = """
import ctypes, tensorrt
for name, kind in vars(tensorrt).items():
    if isinstance(kind, type) and ctypes.c_void_p.from_address(id(kind) + 20 * 8).value:
        if ctypes.c_void_p.from_address(ctypes.c_void_p.from_address(id(kind) + 20 * 8).value).value:
            print(name)
"""
FUNCTION = re.compile(r"(\s*)def (\w+)\(")


class Unavailable(RuntimeError):
    """The wheel, or a tool that is needed, is not available."""


@dataclass(frozen=True)
class Bindings:
    """One version's bindings, importable as `tensorrt`."""

    version: str
    packages: Path
    """For PYTHONPATH."""
    libraries: Path
    """For LD_LIBRARY_PATH."""
    stubs: Path
    """For MYPYPATH."""
    python: str = sys.executable

    def environment(self, *paths: Path) -> dict[str, str]:
        """Return the environment for a process that imports the bindings, and modules from `paths`."""
        path = os.pathsep.join(map(str, (self.packages, *paths)))
        return {**os.environ, "PYTHONPATH": path, "LD_LIBRARY_PATH": str(self.libraries)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("versions", nargs="*", help=f"of {', '.join(WHEELS)}; default: all")
    parser.add_argument("--wheel", type=Path, help="a local wheel, instead of VERSION")
    parser.add_argument("--python", default=sys.executable, help="a Python interpreter that the wheel supports")
    given = parser.parse_args()
    try:
        if given.wheel is not None:
            made = [prepare_wheel(given.wheel, given.folder / given.wheel.stem, python=given.python)]
        else:
            made = [prepare(version, given.folder / version) for version in given.versions or WHEELS]
    except Unavailable as error:
        sys.exit(str(error))
    for bindings in made:
        print(f"TensorRT {bindings.version}: PYTHONPATH {bindings.packages}, signatures in {bindings.stubs}")


def prepare(version: str, folder: Path) -> Bindings:
    """Download a version's bindings and write its signatures; raise `Unavailable`."""
    if version not in WHEELS:
        raise Unavailable(f"no wheel is known for TensorRT {version}; known: {', '.join(WHEELS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    _run([*fetch, "--dest", str(folder), WHEELS[version]], f"the wheel {WHEELS[version]} cannot be downloaded")
    return prepare_wheel(next(folder.glob("*.whl")), folder)


def prepare_wheel(wheel: Path, folder: Path, *, python: str = sys.executable) -> Bindings:
    """Make a wheel's bindings importable and write their signatures; raise `Unavailable`."""
    packages, libraries, stubs = folder / "packages", folder / "libraries", folder / "stubs"
    for path in (packages, libraries, stubs):
        path.mkdir(parents=True, exist_ok=True)
    binding = _unpack(wheel, packages)
    for name in NEEDED.findall(_run(["readelf", "-d", str(binding)], "readelf cannot read the binding")):
        _write_library(libraries / name)
    bindings = Bindings(_version(binding.parent), packages, libraries, stubs, python)
    _write_stubs(bindings)
    return bindings


def _unpack(wheel: Path, packages: Path) -> Path:
    """Extract only the bindings, as a package `tensorrt`: a full wheel has a gigabyte of libraries."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            top, _, rest = name.partition("/")
            if top in (PACKAGE, "tensorrt_bindings") and (rest.endswith(".py") or rest == "tensorrt.so"):
                path = packages / PACKAGE / rest
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))
    binding = packages / PACKAGE / "tensorrt.so"
    if not binding.is_file():
        raise Unavailable(f"{wheel.name} does not contain TensorRT bindings.")
    return binding


def _write_library(path: Path) -> None:
    source = path.with_suffix(".c")
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in ASKED_FOR) + "\n")
    command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-o", str(path), str(source)]
    _run(command, "gcc cannot compile the empty library")


def _version(package: Path) -> str:
    found = re.search(r'^__version__ = "([^"]+)"', (package / "__init__.py").read_text(), re.MULTILINE)
    if found is None:
        raise Unavailable(f"{package} does not contain its version.")
    return found[1]


def _write_stubs(bindings: Bindings) -> None:
    """Run pybind11-stubgen, which is pure Python and also works with other interpreters."""
    import pybind11_stubgen

    generator = Path(pybind11_stubgen.__file__).parent
    tools = bindings.packages.parent / "tools"
    tools.mkdir(exist_ok=True)
    link = tools / generator.name
    if not link.exists():
        link.symlink_to(generator)
    command = [bindings.python, "-m", "pybind11_stubgen", PACKAGE, "--ignore-all-errors", "-o", str(bindings.stubs)]
    _run(command, "the bindings cannot be imported", environment=bindings.environment(tools))
    buffers = _run(
        [bindings.python, "-c", BUFFERS], "the bindings cannot be inspected", bindings.environment()
    ).split()
    for path in bindings.stubs.rglob("*.pyi"):
        path.write_text(_qualify_bool(_add_buffers(_fix_syntax(path.read_text()), buffers)))


def _add_buffers(stub: str, buffers: list[str]) -> str:
    """Add `__buffer__` to the classes with the buffer protocol, which Python before 3.12 does not expose."""
    method = "    def __buffer__(self, flags: int, /) -> memoryview: ..."
    return re.sub(rf"^class ({'|'.join(buffers)})(\(.*\))?:$", rf"\g<0>\n{method}", stub, flags=re.MULTILINE)


def _qualify_bool(stub: str) -> str:
    """Qualify Python's `bool`, because TensorRT has a data type of that name in the same module."""
    return stub.replace("import typing\n", "import typing\nimport builtins\n", 1).replace(
        "-> bool:", "-> builtins.bool:"
    )


def _fix_syntax(stub: str) -> str:
    """Replace signatures with invalid syntax (a parameter `in`, defaults in the middle)."""
    lines = stub.split("\n")
    for _ in lines:
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            number = (error.lineno or 1) - 1
            found = FUNCTION.match(lines[number])
            if found is None:
                raise Unavailable(f"the signatures are not valid Python: {lines[number].strip()}") from None
            body = " ..." if lines[number].rstrip().endswith("...") else ""
            lines[number] = f"{found[1]}def {found[2]}(*args: typing.Any, **kwargs: typing.Any) -> typing.Any:{body}"
        else:
            break
    return "\n".join(lines)


def _run(command: list[str], problem: str, environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{problem}: {error}.") from None
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise Unavailable(f"{problem}: {reason}")
    return done.stdout


if __name__ == "__main__":
    main()
