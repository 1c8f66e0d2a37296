"""The runtimes a target can name."""

from targets.runtimes.onnxruntime.runtime import OnnxRuntimeCpu
from targets.runtimes.tensorrt.runtime import TensorRt
from targets.target import Runtime

RUNTIMES: dict[str, Runtime] = {"onnxruntime": OnnxRuntimeCpu(), "tensorrt": TensorRt()}
