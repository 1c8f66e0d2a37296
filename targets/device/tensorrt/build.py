"""Build an engine from an ONNX file of the TensorRT dialect with the installed TensorRT.

Differences between versions are in `weakly_typed` and `strongly_typed`; the API used here is the same in 8.5, 8.6, 10
and 11, which `tests/device/tensorrt/test_api.py` checks against the bindings of each.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Protocol, Tuple

import tensorrt as trt

from targets.device.errors import BuildError
from targets.device.nvidia.machine import Machine
from targets.device.tensorrt.log import Log

OLDEST = (8, 5)
FIRST_WITHOUT_IMPLICIT_BATCH = (10, 0)
FIRST_STRONG = (10, 12)
PRECISIONS = ("fp32", "fp16", "int8")
MEBIBYTE = 1 << 20
MIN_WORKSPACE, MAX_WORKSPACE = 64 * MEBIBYTE, 4096 * MEBIBYTE


@dataclass(frozen=True)
class Order:
    """The input and the limits of a build."""

    onnx: Path
    precision: str
    """fp32, fp16 or int8; the file must be written for exactly this precision."""
    max_batch: int
    memory_bytes: int
    """Total memory of the device (`Machine.memory_bytes`); a quarter of it may be workspace."""
    best_batch: int = 1
    """The batch size that kernels are optimized for."""
    dla_core: Optional[int] = None
    """Layers that the DLA does not support run on the GPU."""
    timing_cache: Optional[Path] = None
    """Read if it exists, and written after the build (`timing_cache_file`)."""


@dataclass(frozen=True)
class Built:
    engine: bytes
    warnings: Tuple[str, ...]
    """TensorRT's warnings, and whether the timing cache was unusable."""


class Generation(Protocol):
    """The part of the build that differs between TensorRT versions."""

    def network(self, builder: trt.Builder) -> trt.INetworkDefinition: ...

    def allow(self, builder: trt.Builder, config: trt.IBuilderConfig, precision: str) -> Optional[str]: ...

    def refusal(self, precision: str, quantized: bool, half: bool) -> Optional[str]: ...

    def refusal_on_dla(self, precision: str) -> Optional[str]: ...


def build(order: Order) -> Built:
    """Build the engine; raise `BuildError`. Takes seconds to many minutes, most of it for timing kernels."""
    _check_order(order)
    generation = generation_of(trt.__version__)
    log = Log()
    try:
        builder = trt.Builder(log)
    except TypeError:
        raise BuildError(
            f"TensorRT {trt.__version__} cannot start here: {log.reason()}. It needs an NVIDIA GPU and its driver; in "
            "a container, start it with the NVIDIA runtime (--gpus all, on Jetson --runtime nvidia)."
        ) from None
    network = generation.network(builder)
    _parse(network, order, log)
    refused = generation.refusal(order.precision, *_types(network))
    refused = refused or (generation.refusal_on_dla(order.precision) if order.dla_core is not None else None)
    if refused is not None:
        raise BuildError(
            f"{order.onnx} cannot be built in {order.precision} by TensorRT {trt.__version__}: {refused}."
        )
    config = _config(builder, network, order)
    refused = generation.allow(builder, config, order.precision)
    if refused is not None:
        raise BuildError(f"{order.onnx} cannot be built in {order.precision}: {refused}.")
    notes = _load_timing_cache(config, order.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"TensorRT {trt.__version__} cannot build {order.onnx} in {order.precision}: {log.reason()}.")
    _save_timing_cache(config, order.timing_cache)
    return Built(engine=bytes(plan), warnings=(*notes, *log.warnings))


def generation_of(version: str) -> Generation:
    """Return the `Generation` of a TensorRT version; raise `BuildError` if it is too old."""
    number = tuple(int(part) for part in version.split(".")[:2])
    if number < OLDEST:
        raise BuildError(f"TensorRT {version} is too old: the oldest supported version is 8.5 (JetPack 5.1).")
    if number < FIRST_STRONG:
        from targets.device.tensorrt.weakly_typed import Weak8, Weak10

        return Weak8() if number < FIRST_WITHOUT_IMPLICIT_BATCH else Weak10()
    from targets.device.tensorrt.strongly_typed import Strong

    return Strong()


def timing_cache_file(folder: Path, machine: Machine) -> Path:
    """Return the timing cache's file; each TensorRT version and GPU model needs its own."""
    gpu = re.sub(r"[^A-Za-z0-9]+", "-", machine.gpu_name).strip("-").lower()
    capability = machine.compute_capability.replace(".", "")
    return folder / f"timing-{machine.tensorrt}-{gpu}-sm{capability}x{machine.multiprocessors}.cache"


def workspace_bytes(memory_bytes: int) -> int:
    """Return the workspace limit: a quarter of the memory, which on a Jetson is shared with the system."""
    return min(max(memory_bytes // 4, MIN_WORKSPACE), MAX_WORKSPACE)


def _check_order(order: Order) -> None:
    if order.precision not in PRECISIONS:
        raise BuildError(f"precision is {order.precision!r}; use one of {', '.join(PRECISIONS)}.")
    if not 1 <= order.best_batch <= order.max_batch:
        raise BuildError(f"best_batch is {order.best_batch}; use a number from 1 to max_batch, {order.max_batch}.")
    if not order.onnx.is_file():
        raise BuildError(f"the model {order.onnx} does not exist; the artifact is incomplete. Copy it again.")


def _parse(network: trt.INetworkDefinition, order: Order, log: Log) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse(order.onnx.read_bytes()):
        return
    said = []
    for index in range(parser.num_errors):
        error: trt.ParserError = parser.get_error(index)
        said.append(f"node {error.node()}: {error.desc().rstrip('.')}")
    reason = "; ".join(said) or log.reason()
    raise BuildError(f"TensorRT {trt.__version__} cannot read {order.onnx}: {reason}.")


def _types(network: trt.INetworkDefinition) -> Tuple[bool, bool]:
    """Return whether the network has Q nodes, and whether it computes in fp16."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    quantized = any(layer.type == trt.LayerType.QUANTIZE for layer in layers)
    computing = (trt.LayerType.CONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    half = any(layer.type in computing and layer.get_output_type(0) == trt.DataType.HALF for layer in layers)
    return quantized, half


def _config(builder: trt.Builder, network: trt.INetworkDefinition, order: Order) -> trt.IBuilderConfig:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes(order.memory_bytes))
    # Otherwise the engine inspector reports only names, which cannot be audited.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    least, best = 1, order.best_batch
    if order.dla_core is not None:
        _use_dla(builder, config, order)
        # A DLA supports only one shape; the session pads smaller batches.
        least = best = order.max_batch
    _add_profile(builder, config, network, order, (least, best, order.max_batch))
    return config


def _use_dla(builder: trt.Builder, config: trt.IBuilderConfig, order: Order) -> None:
    core = order.dla_core
    if core is None or not 0 <= core < builder.num_DLA_cores:
        raise BuildError(
            f"dla_core is {core}, but TensorRT {trt.__version__} reports {builder.num_DLA_cores} DLA cores here (Orin "
            "Nano and Thor have none, and TensorRT 10.8 to 11.3 support none). Build for the GPU, without dla_core."
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _add_profile(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    order: Order,
    batches: Tuple[int, int, int],
) -> None:
    if network.num_inputs != 1:
        raise BuildError(f"{order.onnx} has {network.num_inputs} inputs; expected one, images [N, 3, H, W].")
    images = network.get_input(0)
    shape = [images.shape[index] for index in range(len(images.shape))]
    if len(shape) != 4 or shape[0] != -1 or min(shape[1:]) < 1:
        raise BuildError(f"the input of {order.onnx} is {shape}; expected images [-1, channels, height, width].")
    profile = builder.create_optimization_profile()
    least, best, most = (trt.Dims([batch, *shape[1:]]) for batch in batches)
    profile.set_shape(images.name, least, best, most)
    if config.add_optimization_profile(profile) < 0:
        raise BuildError(f"TensorRT {trt.__version__} rejects the batch sizes {batches} for {order.onnx}.")


def _load_timing_cache(config: trt.IBuilderConfig, file: Optional[Path]) -> Tuple[str, ...]:
    """Load the timing cache, so that known kernels are not timed again; ignore an unusable one with a warning."""
    if file is None:
        return ()
    stored = file.read_bytes() if file.is_file() else b""
    cache = config.create_timing_cache(stored)
    if cache is not None and config.set_timing_cache(cache, False):
        return ()
    empty = config.create_timing_cache(b"")
    if not stored or empty is None or not config.set_timing_cache(empty, False):
        raise BuildError(f"TensorRT {trt.__version__} does not accept a timing cache; build without one.")
    return (f"the timing cache {file} is damaged or from another machine; all kernels were timed again",)


def _save_timing_cache(config: trt.IBuilderConfig, file: Optional[Path]) -> None:
    """Save the timing cache atomically, so that a killed build leaves the previous one."""
    if file is None:
        return
    serialized = config.get_timing_cache().serialize()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_bytes(bytes(serialized))
    temporary.replace(file)
