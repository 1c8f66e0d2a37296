"""Lock the Python packages of the images, for every runtime, platform and Python; needs `uv` on PATH.

    python scripts/lock_device.py            writes docker/locks/<os>-<arch>-cp<version>.txt for ONNX Runtime, and in
                                             subfolders those for TensorRT and --grpc
    python scripts/lock_device.py --check    fails if a lock is out of date

Versions follow constraints.txt, so that the device runs the versions that the host was tested with; Pythons of older
JetPacks get the newest versions that support them.
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
# Those of the images with TensorRT, and Debian's 3.11, on which their server can be tested without TensorRT.
PYTHONS_OF_TENSORRT = {"linux-amd64": ("3.11", "3.12"), "linux-arm64": ("3.8", "3.10", "3.11", "3.12")}
OLDEST_TESTED = (3, 11)
# ONNX Runtime's wheels need glibc 2.28.
PLATFORMS = {"linux-amd64": "x86_64-manylinux_2_28", "linux-arm64": "aarch64-manylinux_2_28"}
# Required by ONNX Runtime's metadata, but imported only by its tools, never by a session.
NOT_AT_RUN_TIME = ("coloredlogs", "flatbuffers", "mpmath", "packaging", "protobuf", "sympy")
AT_RUN_TIME_OF_GRPC = frozenset({"protobuf"})
# Folder in docker/locks: its requirement files.
KINDS = {
    "": ("requirements.in", "onnxruntime.in"),
    "grpc": ("requirements.in", "onnxruntime.in", "grpc.in"),
    "tensorrt": ("requirements.in",),
    "tensorrt-grpc": ("requirements.in", "grpc.in"),
}
# A lock must work with any mirror: only names, versions and hashes, no URLs.
FOREIGN = re.compile(r"://|^\s*-[-a-z]*(index|find-links|trusted)|^\s*-[if]\b|\bfile:|@ ", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a lock is out of date")
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
        sys.exit(f"out of date: {', '.join(stale)}. Run scripts/lock_device.py and commit the result.")


def locked() -> list[tuple[str, str, str]]:
    """Return kind, platform and Python of every lock."""
    return [
        (kind, platform, python)
        for kind in KINDS
        for platform, pythons in (PYTHONS_OF_TENSORRT if kind.startswith("tensorrt") else PYTHONS).items()
        for python in pythons
    ]


def resolve(platform: str, python: str, kind: str) -> str:
    """Return the lock's text: `name==version` with the hashes of all published files of that version."""
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
        sys.exit(
            f"the lock for {platform}, Python {python} contains a URL or an index: {stray.group()!r} in\n{done.stdout}"
        )
    return done.stdout


if __name__ == "__main__":
    main()
