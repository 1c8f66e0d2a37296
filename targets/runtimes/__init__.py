"""The runtimes a target can name."""

from targets.base import Runtime
from targets.runtimes.onnxruntime_cpu import OnnxRuntimeCpu
from targets.runtimes.trt import TensorRt

RUNTIMES: dict[str, Runtime] = {"onnxruntime": OnnxRuntimeCpu(), "tensorrt": TensorRt()}
