"""What this version can build, so that a target it cannot build is refused before hours of training."""

from pipeline.errors import TargetError
from targets.base import Target

BUILT = ("onnxruntime",)
"""Runtimes that `deploy build` compiles for: not yet all those of `targets.runtimes`."""
CPU_OF = {"linux/amd64": "cpu", "linux/arm64": "cpu-arm64"}


def check_buildable(target: Target) -> None:
    """Raise `TargetError` for a target whose runtime nothing is compiled for yet, with what can be done for it."""
    if target.runtime in BUILT:
        return
    raise TargetError(
        f"the target {target.name} needs a TensorRT engine, and this version builds none yet. It explains the target "
        f"(`deploy targets show {target.name}`) and writes its ONNX file, checked against PyTorch (`deploy export "
        f"--target {target.name}`). What it proves and packages for {target.platform} is the CPU: --target "
        f"{CPU_OF[target.platform]}."
    )
