"""Create the image's Python environment from the wheels next to this file: python3 install.py ENVIRONMENT LAYER

Runs in the image's build, without network. Files that a model server never opens are removed. The environment is
created at its final path, then moved below LAYER with its parent folders and fixed times, so that the layer copied
from there is bit-identical for the same wheels.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

WHEELS, SURPLUS = Path(__file__).parent / "wheels", Path(__file__).parent / "surplus.txt"
SCRIPTS = ("bin/[!p]*", "bin/pip*")
IMPORTS = "import httptools, numpy, orjson, PIL.Image, prometheus_client"
IMPORTS_OF_GRPC = "grpc.aio, google.protobuf.internal.builder"
FIXED_TIME = 315532800  # 1980-01-01, the earliest time that a zip archive supports


def main() -> None:
    environment, layer = map(Path, sys.argv[1:])
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    install = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-cache-dir",
        "--no-index",
    ]
    install += ["--no-deps", "--no-compile", "--require-hashes", "--find-links", str(WHEELS)]
    subprocess.run([*install, "--requirement", str(WHEELS / "requirements.txt")], check=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    lines = SURPLUS.read_text().splitlines()
    remove(packages, tuple(line for line in lines if not line.startswith("#")))
    remove(environment, SCRIPTS)
    wanted = f"{IMPORTS}, {IMPORTS_OF_GRPC}" if list(WHEELS.glob("grpcio-*")) else IMPORTS
    imports = wanted if shows_another_cpu() else f"{wanted}, onnxruntime"
    subprocess.run([python, "-B", "-c", imports], check=True, env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"})
    place = layer / environment.relative_to("/")
    place.parent.mkdir(parents=True)
    shutil.move(str(environment), str(place))
    for path in [layer, *layer.rglob("*")]:
        os.utime(str(path), (FIXED_TIME, FIXED_TIME), follow_symlinks=False)


def shows_another_cpu() -> bool:
    """Return whether an emulator shows the host's /proc/cpuinfo, with which ONNX Runtime for ARM crashes on import."""
    return os.uname().machine == "aarch64" and "CPU implementer" not in Path("/proc/cpuinfo").read_text()


def remove(folder: Path, patterns: "tuple[str, ...]") -> None:
    for pattern in patterns:
        for path in list(folder.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(str(path))
            elif path.exists() or path.is_symlink():
                path.unlink()


if __name__ == "__main__":
    main()
