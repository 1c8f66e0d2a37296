"""All errors that a user can act on, one exit code per class.

DeployError
├── RecipeError         3   an option or deploy.toml is wrong
├── CheckpointError     4   the trained model cannot be loaded
├── DataError           5   images or labels cannot be used
├── TargetError         6   no such target, or the target does not support the request
├── CompressionError    7   pruning, training or quantization cannot reach the requested goal
├── ExportError         8   the ONNX file does not compute what PyTorch computes
├── CompileError        9   the runtime does not run the plan (a layer fell back to float)
├── GateFailed         10   the artifact loses more accuracy than allowed
├── GateUndecided      11   too few images to tell
├── EngineMissing      12   no Docker engine answers; everything up to the image is done
├── PackageError       13   the image could not be built, or its answers differ from the artifact's
├── WorkspaceError     14   the workspace is locked, damaged or its disk is full
├── ToolError          15   another program (pip, docker, …) failed
├── HostUnknown        16   no address is known for a device's name
├── HostKeyRefused     17   a device's host key is unknown or has changed
├── AccessDenied       18   a device refuses the login
├── HostUnreachable    19   no route to a device, or nothing listens there
├── ConnectionLost     20   a device disconnected
├── DeviceUnfit        21   a device does not match its target, or lacks what it needs
├── CommandMissing     22   a program is not installed on a device
├── DeviceDiskFull     23   a device's disk is full
├── DeviceTimeout      24   a device exceeded its time limit
├── DeviceError        25   a command on a device failed
├── LatencyMissed      26   the artifact is slower than requested
├── ProcessLost        27   a training process ended before the training was done
└── NotEnoughMemory    28   this machine, or its control group, has less memory than the build needs

A message says what happened, with the actual value, and what to do next. Only `pipeline.cli.app` catches and prints.
0 is success, 1 a bug in Edge Deploy (with its traceback), 2 a wrong command line, 130 an interrupt.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pipeline.artifacts import AccuracyReport


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
    meaning = "no such target, or the target does not support the request"


class CompressionError(DeployError):
    exit_code = 7
    meaning = "pruning, training or quantization cannot reach the requested goal"


class ExportError(DeployError):
    exit_code = 8
    meaning = "the ONNX file does not compute what PyTorch computes"


class CompileError(DeployError):
    exit_code = 9
    meaning = "the runtime does not run what was planned"


class GateFailed(DeployError):
    exit_code = 10
    meaning = "the artifact loses more accuracy than allowed"
    report: "AccuracyReport | None" = None
    """The main model's report, if the error is about the main model."""


class GateUndecided(DeployError):
    exit_code = 11
    meaning = "too few images to decide"
    report: "AccuracyReport | None" = None
    """The main model's report, if the error is about the main model."""


class EngineMissing(DeployError):
    exit_code = 12
    meaning = "no Docker engine answers; everything up to the image is done"


class PackageError(DeployError):
    exit_code = 13
    meaning = "the image could not be built, or its answers differ from the artifact's"


class WorkspaceError(DeployError):
    exit_code = 14
    meaning = "the workspace is in use or damaged, or its disk is full"


class ToolError(DeployError):
    exit_code = 15
    meaning = "another program (pip, docker, ...) failed"


class HostUnknown(DeployError):
    exit_code = 16
    meaning = "no address is known for a device's name"


class HostKeyRefused(DeployError):
    exit_code = 17
    meaning = "a device's host key is unknown or has changed"


class AccessDenied(DeployError):
    exit_code = 18
    meaning = "a device refuses the login"


class HostUnreachable(DeployError):
    exit_code = 19
    meaning = "no route to a device, or nothing listens there"


class ConnectionLost(DeployError):
    exit_code = 20
    meaning = "a device disconnected"


class DeviceUnfit(DeployError):
    exit_code = 21
    meaning = "a device does not match its target, or lacks what it needs"


class CommandMissing(DeployError):
    exit_code = 22
    meaning = "a program is not installed on a device"


class DeviceDiskFull(DeployError):
    exit_code = 23
    meaning = "the disk of a device is full"


class DeviceTimeout(DeployError):
    exit_code = 24
    meaning = "a device exceeded its time limit"


class DeviceError(DeployError):
    exit_code = 25
    meaning = "a command on a device failed"


class LatencyMissed(DeployError):
    exit_code = 26
    meaning = "the artifact is slower than requested"


class ProcessLost(DeployError):
    exit_code = 27
    meaning = "a training process ended before the training was done"


class NotEnoughMemory(DeployError):
    exit_code = 28
    meaning = "this machine, or its control group, has less memory than the build needs"


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
    HostUnknown,
    HostKeyRefused,
    AccessDenied,
    HostUnreachable,
    ConnectionLost,
    DeviceUnfit,
    CommandMissing,
    DeviceDiskFull,
    DeviceTimeout,
    DeviceError,
    LatencyMissed,
    ProcessLost,
    NotEnoughMemory,
)


def worst_of(errors: Sequence[DeployError]) -> DeployError | None:
    """Return the most severe error: a failed or undecided gate, a missed time and a missing engine rank last."""
    mildest_first = (EngineMissing, LatencyMissed, GateUndecided, GateFailed)

    def severity(error: DeployError) -> int:
        return mildest_first.index(type(error)) if type(error) in mildest_first else len(mildest_first)

    return max(errors, key=severity, default=None)
