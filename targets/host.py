"""Checks of this machine against a target: whether measurements here are valid for it."""

import platform

from pipeline.artifacts import Place
from pipeline.errors import TargetError
from targets.device.model.cpu import instruction_sets
from targets.target import Target

MACHINES = {"linux/amd64": ("x86_64", "amd64"), "linux/arm64": ("aarch64", "arm64")}


def check_host(target: Target) -> None:
    """Raise `TargetError` if a build on this machine could not be proven for the target.

    On a host of another platform, the graph is audited under the target's rules and latency is not judged; accuracy
    is proven where the target's instructions run, natively or emulated.
    """
    if target.gpu is not None:
        # Latency is measured on the device only, and ONNX Runtime's simulation gives the same result on any host.
        return
    if resolve_place(target) is Place.EMULATED:
        if Place.EMULATED not in target.provable_at:
            raise TargetError(
                f"the target {target.name} is {target.platform}, but this machine is {host_platform()}, and the "
                f"target file does not allow proof in emulation (provable_at: {', '.join(target.provable_at)}). "
                f"Build on a {target.platform} machine."
            )
        return
    here = instruction_sets()
    if not set(here) & set(target.instruction_sets):
        raise TargetError(
            f"the target {target.name} needs {' or '.join(target.instruction_sets)}; this CPU has only "
            f"{', '.join(here)}. Build on a machine that has one of them."
        )


def resolve_place(target: Target) -> Place:
    """Return how this machine runs the target's artifact.

    `HOST`: natively, so latency is valid. `EMULATED`: a CPU of another platform under QEMU, so latency is not valid.
    `SIMULATED`: a GPU target, whose TensorRT arithmetic ONNX Runtime simulates.
    """
    if target.gpu is not None:
        return Place.SIMULATED
    return Place.HOST if platform.machine().lower() in MACHINES[target.platform] else Place.EMULATED


def host_platform() -> str:
    """Return this machine's platform as Docker writes it, e.g. `linux/amd64`."""
    machine = platform.machine().lower()
    return next((name for name, machines in MACHINES.items() if machine in machines), f"linux/{machine}")
