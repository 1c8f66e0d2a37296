"""The runtimes a target can name."""

from targets.runtimes.base import Runtime
from targets.runtimes.onnxruntime.runtime import OnnxRuntimeCpu
from targets.runtimes.tensorrt.runtime import TensorRt

RUNTIMES: dict[str, Runtime] = {"onnxruntime": OnnxRuntimeCpu(), "tensorrt": TensorRt()}
