"""Errors of all runtimes' sessions and builds, in a module of their own: an image has only one runtime.

ModelError
├── SessionError    a model cannot be opened or run
├── BuildError      TensorRT cannot build the engine, or the builder process died
├── CacheError      the engine cache cannot be used
├── CudaError       `cudart`: no CUDA, no GPU, or a CUDA call failed
├── MachineError    `machine`: no TensorRT, or a version that cannot be read
├── PassportError   `passport`: an engine from another machine, or damaged
└── LayerError      `layer_report`: an engine without usable layer information
"""

from __future__ import annotations


class ModelError(RuntimeError):
    """The model cannot run here; the message says why and how to fix it."""


class SessionError(ModelError):
    """The runtime cannot open or run the model as its manifest specifies."""


class BuildError(ModelError):
    """TensorRT cannot build the engine; the message contains TensorRT's own."""


class CacheError(ModelError):
    """The engine cache cannot be read, written or locked."""
