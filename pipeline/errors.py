"""Everything that can go wrong, one exit code per class.

DeployError
├── RecipeError         3   an option or deploy.toml is wrong
├── CheckpointError     4   the trained model cannot be loaded
├── DataError           5   images or labels cannot be used
├── TargetError         6   no such target, or one that cannot do what was asked
├── CompressionError    7   pruning, training or quantization cannot reach what was asked
├── ExportError         8   the ONNX file does not compute what PyTorch computes
├── CompileError        9   the runtime does not run the plan (a layer fell back to float)
├── GateFailed         10   the artifact loses more accuracy than allowed
├── GateUndecided      11   too few images to tell
├── EngineMissing      12   no Docker engine answers; everything up to the image is done
├── PackageError       13   the image could not be built, or does not answer as the artifact did
├── WorkspaceError     14   the workspace is locked, damaged or its disk is full
├── ToolError          15   another program (pip, docker, …) failed
└── DeviceError        25   a device could not do what it was told

A message says what happened, with the actual value, and what to do next. `pipeline.cli` alone catches and prints.
0 is success, 1 a bug of ours (with its traceback), 2 a wrong command line, 130 an interrupt.
"""

from typing import ClassVar


class DeployError(Exception):
    """A failure the user can act on; printed without a traceback."""

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "internal error"


class RecipeError(DeployError):
    exit_code = 3
    meaning = "an option or deploy.toml is wrong"


class CheckpointError(DeployError):
    exit_code = 4
    meaning = "the trained model cannot be loaded"


class DataError(DeployError):
    exit_code = 5
    meaning = "images or labels cannot be used"


class TargetError(DeployError):
    exit_code = 6
    meaning = "no such target, or one that cannot do what was asked"


class CompressionError(DeployError):
    exit_code = 7
    meaning = "pruning, training or quantization cannot reach what was asked"


class ExportError(DeployError):
    exit_code = 8
    meaning = "the ONNX file does not compute what PyTorch computes"


class CompileError(DeployError):
    exit_code = 9
    meaning = "the runtime does not run what was planned"


class GateFailed(DeployError):
    exit_code = 10
    meaning = "the artifact loses more accuracy than allowed"


class GateUndecided(DeployError):
    exit_code = 11
    meaning = "too few images to decide"


class EngineMissing(DeployError):
    exit_code = 12
    meaning = "no Docker engine answers; everything up to the image is done"


class PackageError(DeployError):
    exit_code = 13
    meaning = "the image could not be built, or does not answer as the artifact did"


class WorkspaceError(DeployError):
    exit_code = 14
    meaning = "the workspace is in use or damaged, or its disk is full"


class ToolError(DeployError):
    exit_code = 15
    meaning = "another program (pip, docker, ...) failed"


class DeviceError(DeployError):
    exit_code = 25
    meaning = "a device could not do what it was told"


EXIT_CODES: tuple[type[DeployError], ...] = (
    RecipeError,
    CheckpointError,
    DataError,
    TargetError,
    CompressionError,
    ExportError,
    CompileError,
    GateFailed,
    GateUndecided,
    EngineMissing,
    PackageError,
    WorkspaceError,
    ToolError,
    DeviceError,
)
