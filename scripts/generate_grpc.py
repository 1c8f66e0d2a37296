"""Generate the gRPC messages' Python from targets/device/grpc/open_inference.proto; needs `uv` on PATH.

    python scripts/generate_grpc.py            writes targets/device/grpc/open_inference_pb2.py
    python scripts/generate_grpc.py --check    fails if the file is out of date

Generated code needs a protobuf at least as new as its generator, here 4.25.
"""

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "targets" / "device" / "grpc" / "open_inference.proto"
WRITTEN = PROTO.with_name("open_inference_pb2.py")
# The last generator whose code accepts protobuf of another major version without a warning: 4.25 and later.
# It needs an older protobuf than the tests, so it has its own environment; Python 3.12 at most.
GENERATOR = "grpcio-tools==1.62.3"
# Every file in targets/device has it.
FUTURE = "from __future__ import annotations\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is out of date")
    check = parser.parse_args().check
    text = generate()
    name = WRITTEN.relative_to(ROOT)
    if WRITTEN.exists() and WRITTEN.read_text() == text:
        print(f"{name} is up to date")
    elif check:
        sys.exit(f"{name} is out of date. Run scripts/generate_grpc.py and commit the result.")
    else:
        WRITTEN.write_text(text)
        print(f"{name} written")


def generate() -> str:
    """Return the text of the module; exit if the generator is not available or fails."""
    with tempfile.TemporaryDirectory() as scratch:
        done = run("-m", "grpc_tools.protoc", f"-I{PROTO.parent}", f"--python_out={scratch}", PROTO.name)
        if done.returncode != 0:
            sys.exit(f"{GENERATOR} is not available, or failed for {PROTO.name}:\n{done.stderr}")
        text = (Path(scratch) / WRITTEN.name).read_text()
    head, line, rest = text.partition("from google.protobuf import")
    return head + FUTURE + line + rest


def is_available() -> bool:
    """Return whether the generator is installed or can be downloaded."""
    return find_uv() is not None and run("-c", "import grpc_tools").returncode == 0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments in the generator's environment."""
    uv = find_uv()
    if uv is None:
        sys.exit("uv is not on PATH; install it: pip install uv")
    command = [uv, "run", "--no-project", "--isolated", "--quiet", "--python", sys.executable]
    # setuptools: the generator needs its pkg_resources.
    command += ["--with", GENERATOR, "--with", "setuptools<81", "python", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def find_uv() -> str | None:
    return shutil.which("uv") or shutil.which("uv", path=sysconfig.get_path("scripts"))


if __name__ == "__main__":
    main()
