"""The runtimes a target can name."""

from targets.base import Runtime
from targets.runtimes.onnxruntime_cpu import OnnxRuntimeCpu

RUNTIMES: dict[str, Runtime] = {"onnxruntime": OnnxRuntimeCpu()}
