"""Run an ONNX file with ONNX Runtime on a CPU: the same code on the device, in the image and on the build host."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Callable, Mapping, Optional, Sequence, Tuple, Type, Union

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from targets.device.errors import SessionError
from targets.device.model.cpu import instruction_set
from targets.device.model.manifest import Option

PROVIDER = "CPUExecutionProvider"
# Maximum images per run, which limits activation memory; on a CPU even smaller batches reach full throughput.
BATCH = 32
LEVELS = {
    "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
MODES = {"sequential": ort.ExecutionMode.ORT_SEQUENTIAL, "parallel": ort.ExecutionMode.ORT_PARALLEL}
SIMPLE: Mapping[str, Callable[[Option], Option]] = {
    "intra_op_num_threads": int,
    "inter_op_num_threads": int,
    "enable_cpu_mem_arena": bool,
    "enable_mem_pattern": bool,
}
# ONNX Runtime's own errors share no base class below Exception.
ORT_ERRORS = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OnnxRuntimeSession:
    """An open model; safe to call from several threads."""

    def __init__(self, model: Path, options: Mapping[str, Option], *, write_optimized: Optional[Path] = None) -> None:
        """Open an ONNX file; write the optimized graph to `write_optimized` for inspection."""
        made = ort_options(options)
        if write_optimized is not None:
            made.optimized_model_filepath = str(write_optimized)
        try:
            session = ort.InferenceSession(str(model), made, providers=[PROVIDER])
        except ORT_ERRORS as error:
            raise SessionError(f"ONNX Runtime {ort.__version__} cannot open {model}: {error}") from None
        session.disable_fallback()
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise SessionError(f"{model} has {len(inputs)} inputs and {len(outputs)} outputs; expected one of each.")
        self._session: Optional[ort.InferenceSession] = session
        self._input = inputs[0].name
        self._output = outputs[0].name
        self.input_shape = _fixed_shape(model, inputs[0].shape)
        """Channels, height, width."""
        self.classes = _class_count(model, outputs[0].shape)

    @property
    def runtime(self) -> str:
        return f"onnxruntime {ort.__version__}"

    @property
    def instruction_set(self) -> str:
        """Best instruction set of this CPU."""
        return instruction_set()

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits [N, C] of preprocessed images [N, 3, H, W]."""
        if self._session is None:
            raise SessionError("the session is closed.")
        if images.dtype != np.float32 or images.ndim != 4 or images.shape[1:] != self.input_shape:
            wanted = ", ".join(str(size) for size in self.input_shape)
            raise ValueError(f"the model's input is float32 [N, {wanted}]; got {images.dtype} {list(images.shape)}.")
        logits = np.empty((len(images), self.classes), np.float32)
        for start in range(0, len(images), BATCH):
            chunk = np.ascontiguousarray(images[start : start + BATCH])
            try:
                logits[start : start + BATCH] = self._session.run([self._output], {self._input: chunk})[0]
            except ORT_ERRORS as error:
                raise SessionError(f"ONNX Runtime {ort.__version__} failed at run time: {error}") from None
        return logits

    def close(self) -> None:
        """Free the model's memory."""
        self._session = None

    def __enter__(self) -> OnnxRuntimeSession:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


def ort_options(options: Mapping[str, Option]) -> ort.SessionOptions:
    """Convert the manifest's options to ONNX Runtime's; names with a dot become session config entries."""
    made = ort.SessionOptions()
    # Fatal only: errors are also raised as exceptions, and the log contains only JSON lines.
    made.log_severity_level = 4
    for name, value in options.items():
        try:
            _set(made, name, value)
        except KeyError:
            raise SessionError(f"the session option {name!r} = {value!r} is not supported by this version.") from None
    return made


def _set(made: ort.SessionOptions, name: str, value: Option) -> None:
    if "." in name:
        made.add_session_config_entry(name, str(value))
    elif name == "graph_optimization_level":
        made.graph_optimization_level = LEVELS[str(value)]
    elif name == "execution_mode":
        made.execution_mode = MODES[str(value)]
    else:
        setattr(made, name, SIMPLE[name](value))


def _fixed_shape(model: Path, shape: Sequence[Union[int, str, None]]) -> Tuple[int, int, int]:
    sizes = [size for size in shape[1:] if isinstance(size, int)]
    if len(shape) != 4 or len(sizes) != 3:
        raise SessionError(
            f"the input of {model} is {list(shape)}; expected images [N, channels, height, width] of a fixed size."
        )
    return (sizes[0], sizes[1], sizes[2])


def _class_count(model: Path, shape: Sequence[Union[int, str, None]]) -> int:
    count = shape[1] if len(shape) == 2 else None
    if not isinstance(count, int):
        raise SessionError(f"the output of {model} is {list(shape)}; expected logits [N, classes].")
    return count
