"""Resolve what an image needs, for every runtime, platform and Python it may have; needs `uv` on PATH.

    python scripts/lock_device.py            writes docker/locks/<os>-<arch>-cp<version>.txt for ONNX Runtime, and into
                                             folders of their own what images have for TensorRT or with --grpc
    python scripts/lock_device.py --check    fails where a lock is not what it would write

Versions follow constraints.txt, so that the device runs what the host was tested with; the Pythons of older JetPacks
get the newest that still serve them.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "docker" / "locks"
PYTHONS = {"linux-amd64": ("3.11", "3.12", "3.13"), "linux-arm64": ("3.11", "3.12")}
# Of the images that have TensorRT in them, and 3.11 of Debian, on which their server can be tried without one.
PYTHONS_OF_TENSORRT = {"linux-amd64": ("3.11", "3.12"), "linux-arm64": ("3.8", "3.10", "3.11", "3.12")}
OLDEST_TESTED = (3, 11)
# glibc 2.28 is what ONNX Runtime's own wheels ask for.
PLATFORMS = {"linux-amd64": "x86_64-manylinux_2_28", "linux-arm64": "aarch64-manylinux_2_28"}
# Asked for by ONNX Runtime's metadata, imported by its tools alone, never by a session.
NOT_AT_RUN_TIME = ("coloredlogs", "flatbuffers", "mpmath", "packaging", "protobuf", "sympy")
AT_RUN_TIME_OF_GRPC = frozenset({"protobuf"})
# Folder below docker/locks: what is asked for.
KINDS = {
    "": ("requirements.in", "onnxruntime.in"),
    "grpc": ("requirements.in", "onnxruntime.in", "grpc.in"),
    "tensorrt": ("requirements.in",),
    "tensorrt-grpc": ("requirements.in", "grpc.in"),
}
# A lock must serve behind any mirror: names, versions and hashes, nothing about where they came from.
FOREIGN = re.compile(r"://|^\s*-[-a-z]*(index|find-links|trusted)|^\s*-[if]\b|\bfile:|@ ", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a lock is out of date")
    check = parser.parse_args().check
    stale = []
    for kind, platform, python in locked():
        path = LOCKS / kind / f"{platform}-cp{python.replace('.', '')}.txt"
        name = str(path.relative_to(ROOT))
        text = resolve(platform, python, kind)
        if path.exists() and path.read_text() == text:
            print(f"{name} is up to date")
        elif check:
            stale.append(name)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            print(f"{name} written: {text.count('==')} packages")
    if stale:
        sys.exit(f"out of date: {', '.join(stale)}. Run scripts/lock_device.py and commit what it writes.")


def locked() -> list[tuple[str, str, str]]:
    """Kind, platform and Python of every lock."""
    return [
        (kind, platform, python)
        for kind in KINDS
        for platform, pythons in (PYTHONS_OF_TENSORRT if kind.startswith("tensorrt") else PYTHONS).items()
        for python in pythons
    ]


def resolve(platform: str, python: str, kind: str) -> str:
    """The lock's text: `name==version` with the hashes of every published file of that version."""
    is_tested = tuple(map(int, python.split("."))) >= OLDEST_TESTED
    with tempfile.TemporaryDirectory() as scratch:
        excluded = Path(scratch) / "excluded.txt"
        needed = AT_RUN_TIME_OF_GRPC if "grpc.in" in KINDS[kind] else frozenset()
        excluded.write_text("\n".join(sorted(set(NOT_AT_RUN_TIME) - needed)))
        command = ["uv", "pip", "compile", "--quiet"]
        command += [str(ROOT / "docker" / name) for name in KINDS[kind]]
        command += ["--python-platform", PLATFORMS[platform], "--python-version", python]
        command += ["--constraints", str(ROOT / "constraints.txt")] if is_tested else []
        command += ["--excludes", str(excluded)]
        command += ["--only-binary", ":all:", "--generate-hashes", "--no-annotate", "--no-header"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            sys.exit("uv is not on PATH; install it: pip install uv")
    if done.returncode != 0:
        sys.exit(f"uv could not resolve for {platform}, Python {python}:\n{done.stderr}")
    stray = FOREIGN.search(done.stdout)
    if stray is not None:
        sys.exit(f"the lock for {platform}, Python {python} names a place: {stray.group()!r} in\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
