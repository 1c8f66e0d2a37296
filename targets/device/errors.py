"""Errors of every runtime's sessions and builds, apart from the runtimes: an image holds one of them only.

ModelError
├── SessionError    a model cannot be opened or run
├── BuildError      TensorRT does not build the engine, or its builder died
├── CacheError      the folder that engines are kept in cannot be used
├── CudaError       `cudart`: no CUDA, no GPU, or a call of it failed
├── MachineError    `machine`: no TensorRT, or a version that cannot be read
├── PassportError   `passport`: an engine from elsewhere, or damaged
└── LayerError      `layer_report`: an engine that does not say what it runs
"""

from __future__ import annotations


class ModelError(RuntimeError):
    """What a model needs is missing or refuses here; the message says what and how to cure it."""


class SessionError(ModelError):
    """The runtime cannot open or run the model as its manifest asks."""


class BuildError(ModelError):
    """TensorRT cannot build the engine that was asked for; its own words are in the message."""


class CacheError(ModelError):
    """The engine cache cannot be read, written or locked."""
