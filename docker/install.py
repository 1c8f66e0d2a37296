"""Make the image's Python environment from the wheels beside this file: python3 install.py ENVIRONMENT LAYER

Runs inside the image's build, without network. What a model server never opens is left out. The environment is
made where it will be, then moved below LAYER with its parent folders, all times fixed: so the layer that is copied
from there is the same, bit for bit, wherever it is made from the same wheels.
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
FIXED_TIME = 315532800  # 1980-01-01, the earliest that a zip archive can hold


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
    """Whether an emulator shows its host's /proc/cpuinfo, on which ONNX Runtime for ARM crashes; it is tried later."""
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
