"""Run an engine after checking its passport, with the named-tensor API of TensorRT 8.5 and later."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import List, Optional, Tuple, Type

import numpy as np
import tensorrt as trt
from numpy.typing import NDArray

from targets.device.errors import SessionError
from targets.device.nvidia.cudart import Buffers, Cuda
from targets.device.nvidia.machine import Machine
from targets.device.tensorrt import passport as passports
from targets.device.tensorrt.layer_report import LayerReport, read_report
from targets.device.tensorrt.log import Log

FLOAT_BYTES = 4


class UnreadableEngine(SessionError):
    """TensorRT cannot load an engine although its passport fits; it must be built again."""


class TensorRtSession:
    """An engine with its buffers; calls from several threads are serialized."""

    def __init__(self, engine: Path, *, cuda: Optional[Cuda] = None, here: Optional[Machine] = None) -> None:
        """Open `engine`, whose passport is in the same folder; raise `PassportError`, `SessionError`, `CudaError`."""
        self._cuda = Cuda() if cuda is None else cuda
        self.passport = passports.read(engine.parent)
        machine = passports.here(self._cuda) if here is None else here
        passports.check(self.passport, machine)
        self.runtime, self.instruction_set = f"tensorrt {machine.tensorrt}", machine.instruction_set
        passports.check_files(self.passport, engine)
        self._lock = threading.Lock()
        self._log = Log()
        self._engine = self._deserialize(engine)
        self._input, self._output = self._tensors(engine)
        least, _, most = self._engine.get_tensor_profile_shape(self._input, 0)
        self.least_batch, self.max_batch = least[0], most[0]
        self.input_shape = (most[1], most[2], most[3])
        """Channels, height, width."""
        self.classes = self._class_count(engine)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise SessionError(f"TensorRT {trt.__version__} cannot run {engine}: {self._log.reason()}.")
        image_bytes = FLOAT_BYTES * int(np.prod(self.input_shape))
        sizes = (self.max_batch * image_bytes, self.max_batch * FLOAT_BYTES * self.classes)
        self._buffers: Optional[Buffers] = Buffers(self._cuda, sizes)
        source, target = self._buffers
        for name, address in ((self._input, source), (self._output, target)):
            if not self._context.set_tensor_address(name, address):
                self.close()
                raise SessionError(f"TensorRT rejects the memory for {name} of {engine}: {self._log.reason()}.")

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits [N, C] of preprocessed images [N, 3, H, W]."""
        if images.dtype != np.float32 or images.ndim != 4 or images.shape[1:] != self.input_shape:
            wanted = ", ".join(str(size) for size in self.input_shape)
            raise ValueError(f"the model's input is float32 [N, {wanted}]; got {images.dtype} {list(images.shape)}.")
        logits = np.empty((len(images), self.classes), np.float32)
        with self._lock:
            for start in range(0, len(images), self.max_batch):
                chunk = images[start : start + self.max_batch]
                logits[start : start + len(chunk)] = self._run(chunk)[: len(chunk)]
        return logits

    def gpu_ms(self, runs: int) -> List[float]:
        """Return the milliseconds of runs at the minimum batch between CUDA events; unlike `infer`, without copies."""
        image = np.zeros((self.least_batch, *self.input_shape), np.float32)
        with self._lock:
            self._run(image)
            buffers = self._open_buffers()
            events = (self._cuda.create_event(), self._cuda.create_event())
            try:
                return [self._time_run(buffers, events) for _ in range(runs)]
            finally:
                for event in events:
                    self._cuda.destroy_event(event)

    def layers(self) -> LayerReport:
        """Return the engine inspector's report, for the minimum batch."""
        with self._lock:
            self._open_buffers()
            self._set_batch(self.least_batch)
            inspector: trt.EngineInspector = self._engine.create_engine_inspector()
            # For engines with a dynamic batch, types are known only for a context with a shape.
            inspector.execution_context = self._context
            return read_report(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Free the device's memory."""
        with self._lock:
            buffers, self._buffers = self._buffers, None
            if buffers is not None:
                buffers.close()
                # The context must be deleted before its engine.
                del self._context, self._engine

    def __enter__(self) -> TensorRtSession:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def _run(self, chunk: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of at most `max_batch` images; batches below `least_batch` are padded with zeros."""
        buffers = self._open_buffers()
        batch = max(len(chunk), self.least_batch)
        images = np.zeros((batch, *self.input_shape), np.float32)
        images[: len(chunk)] = chunk
        logits = np.empty((batch, self.classes), np.float32)
        self._set_batch(batch)
        source, target = buffers
        self._cuda.copy_to_device(source, images, buffers.stream)
        self._execute(buffers)
        self._cuda.copy_to_host(logits, target, buffers.stream)
        self._cuda.synchronize(buffers.stream)
        return logits

    def _time_run(self, buffers: Buffers, events: Tuple[int, int]) -> float:
        before, after = events
        self._cuda.record(before, buffers.stream)
        self._execute(buffers)
        self._cuda.record(after, buffers.stream)
        self._cuda.synchronize(buffers.stream)
        return self._cuda.elapsed_ms(before, after)

    def _execute(self, buffers: Buffers) -> None:
        if not self._context.execute_async_v3(buffers.stream):
            raise SessionError(f"TensorRT {trt.__version__} failed at run time: {self._log.reason()}.")

    def _set_batch(self, batch: int) -> None:
        if not self._context.set_input_shape(self._input, trt.Dims([batch, *self.input_shape])):
            raise SessionError(f"the engine rejects the batch size {batch}: {self._log.reason()}.")

    def _open_buffers(self) -> Buffers:
        if self._buffers is None:
            raise SessionError("the session is closed.")
        return self._buffers

    def _deserialize(self, engine: Path) -> trt.ICudaEngine:
        try:
            runtime = trt.Runtime(self._log)
        except TypeError:
            raise SessionError(f"TensorRT {trt.__version__} cannot start here: {self._log.reason()}.") from None
        loaded = runtime.deserialize_cuda_engine(engine.read_bytes())
        if loaded is None:
            raise UnreadableEngine(
                f"TensorRT {trt.__version__} cannot read {engine}, although its passport fits this machine: "
                f"{self._log.reason()}. Build the engine again here."
            )
        # The engine needs it for its whole lifetime.
        self._runtime = runtime
        return loaded

    def _tensors(self, engine: Path) -> Tuple[str, str]:
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        if len(inputs) != 1 or len(outputs) != 1:
            raise SessionError(f"{engine} has {len(inputs)} inputs and {len(outputs)} outputs; expected one of each.")
        for name in names:
            kind = self._engine.get_tensor_dtype(name)
            if kind != trt.DataType.FLOAT:
                raise SessionError(f"{name} of {engine} is {kind}; expected float32. Build the engine again.")
        return inputs[0], outputs[0]

    def _class_count(self, engine: Path) -> int:
        shape = self._engine.get_tensor_shape(self._output)
        if len(shape) != 2 or shape[1] < 1:
            sizes = [shape[index] for index in range(len(shape))]
            raise SessionError(f"the output of {engine} is {sizes}; expected logits [N, classes].")
        return int(shape[1])
