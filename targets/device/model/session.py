"""Interfaces of an open model, for any runtime."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Optional, Protocol, Tuple, Type

import numpy as np
from numpy.typing import NDArray

from targets.device.errors import SessionError
from targets.device.model.manifest import Manifest


class Inference(Protocol):
    """A model that can be run: opened here, or served by a container."""

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [N, C] of preprocessed images [N, 3, H, W]."""


class Session(Protocol):
    """A model that is open here; as a context manager, closes it."""

    @property
    def runtime(self) -> str:
        """Name and version, e.g. `onnxruntime 1.22.0`."""

    @property
    def instruction_set(self) -> str:
        """Instruction set of the CPU, e.g. `avx2`, or architecture of the GPU, e.g. `sm_87`."""

    @property
    def input_shape(self) -> Tuple[int, int, int]:
        """Channels, height, width."""

    @property
    def classes(self) -> int: ...

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [N, C] of preprocessed images [N, 3, H, W]."""

    def close(self) -> None:
        """Free the model's memory."""

    def __enter__(self) -> Session: ...

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None: ...


def check_shape(session: Session, folder: Path, manifest: Manifest) -> None:
    """Close the session and raise `SessionError` if its shapes do not match the manifest."""
    if session.input_shape != manifest.input_shape or session.classes != len(manifest.classes):
        session.close()
        raise SessionError(
            f"the model of {folder} has the input {list(session.input_shape)} and {session.classes} classes; "
            f"its manifest says {list(manifest.input_shape)} and {len(manifest.classes)}."
        )
