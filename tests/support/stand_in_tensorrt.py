"""A module `tensorrt` that computes with ONNX Runtime in host memory, to drive our code around the real one.

It shows what our code does in what order, with which sizes and addresses, and what becomes of TensorRT's refusals. Of
TensorRT it shows nothing: names and signatures are checked against the real bindings in `device/tensorrt/test_api.py`.
An "engine" is the ONNX file behind a line of JSON.
"""

import ctypes
import json
import os
import signal
import time
from collections.abc import Sequence
from enum import IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto

DLA_CORES = 2
NO_MEMORY = "not enough memory"


class StandIn(ModuleType):
    """The module, and a record of what was asked of it."""

    def __init__(self, version: str) -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        # PyTorch asks whether TensorRT is installed, and takes a module without one for a mistake.
        self.__spec__ = ModuleSpec("tensorrt", None)
        self.asked: list[str] = []
        self.refuse: str | None = None
        """A step that fails from now on: builder, parse, build, runtime, deserialize, context, shape, execute."""
        for name, members in ENUMS.items():
            setattr(self, name, IntEnum(name, members))
        self.Dims = Dims
        for kind in (ILogger, Builder, OnnxParser, Runtime):
            setattr(self, kind.__name__, type(kind.__name__, (kind,), {"trt": self}))

    def fails(self, step: str) -> bool:
        self.asked.append(step)
        return self.refuse == step


ENUMS: dict[str, dict[str, int]] = {
    "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    "BuilderFlag": {"FP16": 0, "INT8": 2, "GPU_FALLBACK": 4},
    "MemoryPoolType": {"WORKSPACE": 0},
    "ProfilingVerbosity": {"DETAILED": 2},
    "DeviceType": {"GPU": 0, "DLA": 1},
    "LayerType": {"CONVOLUTION": 0, "MATRIX_MULTIPLY": 1, "QUANTIZE": 2, "OTHER": 3},
    "DataType": {"FLOAT": 0, "HALF": 1, "INT8": 2},
    "TensorIOMode": {"INPUT": 1, "OUTPUT": 2},
    "LayerInformationFormat": {"JSON": 1},
}


class Dims(list[int]):
    """Sizes."""


class ILogger:
    Severity = IntEnum("Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3})

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class Of:
    """Anything with attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Profile:
    def __init__(self) -> None:
        self.shapes: tuple[Dims, ...] = ()

    def set_shape(self, name: str, least: Dims, best: Dims, most: Dims) -> None:
        self.shapes = (least, best, most)


class Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model: ModelProto | None = None
        self.layers: list[Of] = []

    num_inputs = property(lambda self: len(self.model.graph.input))
    num_layers = property(lambda self: len(self.layers))

    def get_layer(self, index: int) -> Of:
        return self.layers[index]

    def get_input(self, index: int) -> Of:
        value = self.model.graph.input[index]  # type: ignore[union-attr]
        sizes = [size.dim_value or -1 for size in value.type.tensor_type.shape.dim]
        return Of(name=value.name, shape=Dims(sizes))


class Config:
    def __init__(self) -> None:
        self.flags: set[int] = set()
        self.pools: dict[int, int] = {}
        self.profiles: list[Profile] = []
        self.cache = b""
        self.DLA_core = -1
        self.default_device_type = 0
        self.profiling_verbosity = 0

    def set_memory_pool_limit(self, pool: int, size: int) -> None:
        self.pools[pool] = size

    def set_flag(self, flag: int) -> None:
        self.flags.add(flag)

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized: bytes) -> bytes:
        return serialized

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        is_known = cache in (b"", b"timings")
        self.cache = cache if is_known else self.cache
        return is_known or ignore_mismatch

    def get_timing_cache(self) -> Of:
        return Of(serialize=lambda: memoryview(b"timings"))


class Builder:
    trt: StandIn
    num_DLA_cores = DLA_CORES
    platform_has_fast_int8 = True
    platform_has_fast_fp16 = True

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger
        self.config = Config()
        self.trt.asked.clear()
        self.trt.last = self  # type: ignore[attr-defined]
        if self.trt.fails("builder"):
            logger.log(1, "no CUDA-capable device")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int) -> Network:
        self.network = Network(flags)
        return self.network

    def create_builder_config(self) -> Config:
        return self.config

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> memoryview | None:
        if self.trt.fails("build"):
            self.logger.log(1, "Could not find any implementation for node conv1.")
            return None
        self.logger.log(2, "A warning.")
        if config.cache:
            self.logger.log(2, "Timings of an earlier build are used.")
        precision = self._precision(network, config)
        is_meant = precision in os.environ.get("STAND_IN_BUILD_OF", precision).split()
        how = os.environ.get("STAND_IN_BUILD", "") if is_meant else ""
        if how.startswith("refuse "):
            self.logger.log(1, how[len("refuse ") :])
            return None
        _behave(how)
        assert network.model is not None
        head = {
            "shapes": [list(shape) for shape in config.profiles[0].shapes],
            "precision": precision,
            # Two builds of the real one seldom come out the same.
            "build": os.environ.get("STAND_IN_NUMBER", ""),
        }
        return memoryview(json.dumps(head).encode() + b"\n" + network.model.SerializeToString())

    def _precision(self, network: Network, config: Config) -> str:
        assert network.model is not None
        if any(node.op_type == "QuantizeLinear" for node in network.model.graph.node):
            return "int8"
        is_half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in network.model.graph.initializer)
        return "fp16" if is_half or self.trt.BuilderFlag.FP16 in config.flags else "fp32"


class OnnxParser:
    trt: StandIn

    def __init__(self, network: Network, logger: ILogger) -> None:
        self.network = network

    num_errors = 1

    def get_error(self, index: int) -> Of:
        return Of(node=lambda: 7, desc=lambda: "only symmetric quantization is supported.")

    def parse(self, model: bytes) -> bool:
        if self.trt.fails("parse"):
            return False
        self.network.model = ModelProto.FromString(model)
        self.network.layers = [self._layer(node) for node in self.network.model.graph.node]
        return True

    def _layer(self, node: onnx.NodeProto) -> Of:
        kinds = {"Conv": "CONVOLUTION", "Gemm": "MATRIX_MULTIPLY", "QuantizeLinear": "QUANTIZE"}
        kind = self.trt.LayerType[kinds.get(node.op_type, "OTHER")]
        assert self.network.model is not None
        is_half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in self.network.model.graph.initializer)
        answer = self.trt.DataType["HALF" if is_half else "FLOAT"]
        return Of(type=kind, get_output_type=lambda index: answer)


class Runtime:
    trt: StandIn

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger
        if self.trt.fails("runtime"):
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def deserialize_cuda_engine(self, engine: bytes) -> "Engine | None":
        if self.trt.fails("deserialize"):
            self.logger.log(1, "Version tag does not match.")
            return None
        return Engine(self.trt, self.logger, engine)


class Engine:
    def __init__(self, trt: StandIn, logger: ILogger, engine: bytes) -> None:
        self.trt, self.logger = trt, logger
        head, _, model = engine.partition(b"\n")
        facts = json.loads(head)
        self.shapes, self.precision = facts["shapes"], facts["precision"]
        self.model = ModelProto.FromString(model)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        graph = self.model.graph
        self.tensors = {value.name: value for value in (*graph.output, *graph.input)}

    num_io_tensors = property(lambda self: len(self.tensors))

    def get_tensor_name(self, index: int) -> str:
        return str(list(self.tensors)[index])

    def get_tensor_mode(self, name: str) -> int:
        is_input = name in {value.name for value in self.model.graph.input}
        return int(self.trt.TensorIOMode["INPUT" if is_input else "OUTPUT"])

    def get_tensor_dtype(self, name: str) -> Any:
        is_float = self.tensors[name].type.tensor_type.elem_type == TensorProto.FLOAT
        return self.trt.DataType["FLOAT" if is_float else "HALF"]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(size.dim_value or -1 for size in self.tensors[name].type.tensor_type.shape.dim)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Dims]:
        return [Dims(shape) for shape in self.shapes]

    def create_execution_context(self) -> "Context | None":
        return None if self.trt.fails("context") else Context(self)

    def create_engine_inspector(self) -> "Inspector":
        return Inspector(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shape: list[int] = []

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return not self.engine.trt.fails("address")

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        least, most = self.engine.shapes[0][0], self.engine.shapes[-1][0]
        self.shape = list(shape)
        return not self.engine.trt.fails("shape") and least <= shape[0] <= most

    def execute_async_v3(self, stream: int) -> bool:
        if self.engine.trt.fails("execute") or not stream:
            self.engine.logger.log(1, NO_MEMORY)
            return False
        (images,), (logits,) = self.engine.model.graph.input, self.engine.model.graph.output
        answer = self.engine.session.run(None, {images.name: _at(self.addresses[images.name], self.shape).copy()})[0]
        _at(self.addresses[logits.name], answer.shape)[:] = self._spoiled(answer)
        self._take_time()
        return True

    def _take_time(self) -> None:
        """Microseconds more on the clock of the C library's events, as STAND_IN_SLOW says: `{"int8": 100}`.

        Each run really takes STAND_IN_DELAY seconds longer.
        """
        time.sleep(float(os.environ.get("STAND_IN_DELAY", "0")))
        slow = json.loads(os.environ.get("STAND_IN_SLOW", "{}")).get(self.engine.precision)
        if slow is not None:
            ctypes.CDLL("libcudart.so.13").pass_time(ctypes.c_long(slow))

    def _spoiled(self, answer: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Where STAND_IN_SPOILS names a class, engines take images of that class for the one after it.

        `nan`: all answers are none. Engines in int8, or in each precision that STAND_IN_SPOILT names.
        """
        spoilt = os.environ.get("STAND_IN_SPOILS", "")
        if spoilt and self.engine.precision in os.environ.get("STAND_IN_SPOILT", "int8").split():
            if spoilt == "nan":
                return np.full_like(answer, np.nan)
            rows = answer.argmax(1) == int(spoilt)
            answer[rows] = np.roll(answer[rows], 1, axis=1)
        return answer


class Inspector:
    """Tells types for a context with a shape alone, as the real one does for a free batch."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.execution_context: Context | None = None

    def get_engine_information(self, kind: int) -> str:
        has_shape = self.execution_context is not None and self.execution_context.shape
        made = {output: node.op_type for node in self.engine.model.graph.node for output in node.output}
        layers = []
        for node in self.engine.model.graph.node:
            if node.op_type in ("Conv", "Gemm"):
                integer = made.get(node.input[1]) == "DequantizeLinear"
                told = ("Int8" if integer else "Row major linear FP32") if has_shape else "N/A due to dynamic shapes"
                inputs = [{"Name": node.input[0], "Format/Datatype": told}]
                layers.append({"Name": node.name, "LayerType": node.op_type, "Inputs": inputs})
        return json.dumps({"Layers": layers})


def _at(address: int, shape: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)


def _behave(how: str) -> None:
    """As STAND_IN_BUILD says, besides `refuse REASON`.

    `sleep SECONDS`, `signal NAME`, `disk` (a file system that is full), `raise` (a bug).
    """
    kind, _, value = how.partition(" ")
    if kind == "sleep":
        time.sleep(float(value))
    elif kind == "signal":
        os.kill(os.getpid(), signal.Signals[value])
    elif kind == "disk":
        raise OSError(28, "No space left on device")
    elif kind == "raise":
        raise ZeroDivisionError("a bug")
