"""What this machine can stand for: whether a target's clock and instructions are its own."""

import platform

from pipeline.artifacts import Place
from pipeline.errors import TargetError
from targets.device.model.cpu import instruction_sets
from targets.target import Target

MACHINES = {"linux/amd64": ("x86_64", "amd64"), "linux/arm64": ("aarch64", "arm64")}


def check_host(target: Target) -> None:
    """Raise `TargetError` where what is measured here would say nothing about the target, nor be proven later.

    On a host of another platform the graph is audited under the target's rules and nothing is concluded from the
    clock; accuracy is proven where the target's own instructions are run, be they emulated.
    """
    if target.gpu is not None:
        # No machine but the device's own is asked for its clock, and ONNX Runtime simulates alike everywhere.
        return
    if standing(target) is Place.EMULATED:
        if Place.EMULATED not in target.provable_at:
            raise TargetError(
                f"the target {target.name} is {target.platform}, this machine is {host_platform()}, and its file "
                f"does not let it be proven in emulation (provable_at: {', '.join(target.provable_at)}). "
                "Build on a machine of that platform."
            )
        return
    here = instruction_sets()
    if not set(here) & set(target.instruction_sets):
        raise TargetError(
            f"the target {target.name} relies on {' or '.join(target.instruction_sets)}; this CPU has only "
            f"{', '.join(here)}. Build on a machine that has one of them."
        )


def standing(target: Target) -> Place:
    """What a measurement on this machine is to the target.

    `HOST`: its own platform, whose clock is the target's. `EMULATED`: a CPU of another platform, whose instructions
    QEMU runs and whose clock says nothing. `SIMULATED`: a GPU, for whose TensorRT ONNX Runtime computes.
    """
    if target.gpu is not None:
        return Place.SIMULATED
    return Place.HOST if platform.machine().lower() in MACHINES[target.platform] else Place.EMULATED


def host_platform() -> str:
    """This machine's, in Docker's words: `linux/amd64`."""
    machine = platform.machine().lower()
    return next((name for name, machines in MACHINES.items() if machine in machines), f"linux/{machine}")
