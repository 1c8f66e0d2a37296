"""Which combinations of target, precision and accelerator cannot be, and what to take instead."""

from pipeline.artifacts import Precision
from pipeline.errors import TargetError
from targets.gpu import Gpu
from targets.target import Target, catalogue

LAST_10_WITH_DLA = (10, 7)
FIRST_11_WITH_DLA = (11, 4, 1)
THOR = "11.0"


def check_combination(target: Target, *, precision: Precision | None = None, dla: bool = False) -> None:
    """Raise `TargetError` where the target cannot run `precision`, or has no DLA to run it on; names the alternative.

    A family whose larger modules alone have a DLA passes: which module it is, only the device says.
    """
    if precision is not None:
        _check_precision(target, precision)
    if dla:
        _check_dla(target, precision)


def why_no_dla(target: Target) -> str | None:
    """The reason in words, None where the target has a DLA that its TensorRT can use."""
    gpu = target.gpu
    if gpu is None:
        return "it is a CPU"
    if not gpu.is_jetson:
        return "a GPU in a PC or server has none"
    if THOR in gpu.compute_capability:
        return "Thor has none"
    if all(module.startswith("Orin Nano") for module in gpu.modules):
        return "no Orin Nano has one; Orin NX and AGX Orin have"
    version = _parts(gpu.tensorrt)
    if LAST_10_WITH_DLA < version[:2] < FIRST_11_WITH_DLA[:2] or (11,) < version < FIRST_11_WITH_DLA:
        return (
            f"TensorRT {gpu.tensorrt} (JetPack {gpu.jetpack}) does not use it: 10.7 is the last 10.x that does, and "
            "11.4.1 the first after it"
        )
    if version >= FIRST_11_WITH_DLA and not any(module.startswith("AGX Orin") for module in gpu.modules):
        return f"TensorRT {gpu.tensorrt} uses that of an AGX Orin alone"
    return None if gpu.dla_cores else "its file says dla_cores = 0"


def dla_reads_qdq(gpu: Gpu) -> bool:
    """Whether a DLA takes its int8 scales from Q/DQ nodes; before TensorRT 11 they come from a calibration cache."""
    return _parts(gpu.tensorrt) >= (11,)


def precisions_on_dla(target: Target) -> tuple[Precision, ...]:
    """Those of the target's precisions that its DLA runs; raises `TargetError` where it has none to use."""
    check_combination(target, dla=True)
    assert target.gpu is not None
    able = {Precision.FP16, Precision.INT8} if dla_reads_qdq(target.gpu) else {Precision.FP16}
    return tuple(precision for precision in target.precisions if precision in able)


def _check_precision(target: Target, precision: Precision) -> None:
    if precision is Precision.INT8 and target.gpu is not None and not target.gpu.int8:
        raise TargetError(
            f"the GPU of the target {target.name} (compute capability {', '.join(target.gpu.compute_capability)}) has "
            "no int8 arithmetic, and TensorRT refuses networks with Q/DQ nodes there. Take fp16."
        )
    if precision in target.precisions:
        return
    advice = f"Take {' or '.join(target.precisions)}"
    if precision is Precision.FP16 and target.gpu is None:
        advice += "; fp16 is for the targets with a GPU (`deploy targets` lists them)"
    raise TargetError(f"the target {target.name} does not run {precision}. {advice}.")


def _check_dla(target: Target, precision: Precision | None) -> None:
    reason = why_no_dla(target)
    if reason is not None:
        able = ", ".join(other.name for other in catalogue() if why_no_dla(other) is None)
        raise TargetError(
            f"the target {target.name} has no DLA to run on: {reason}. Leave the DLA out, or take a target that has "
            f"one: {able}."
        )
    assert target.gpu is not None
    if precision is Precision.FP32:
        raise TargetError(f"the DLA of the target {target.name} runs fp16 and int8, not fp32. Take fp16.")
    if precision is Precision.INT8 and not dla_reads_qdq(target.gpu):
        raise TargetError(
            f"under TensorRT {target.gpu.tensorrt} the DLA of the target {target.name} takes int8 scales from a "
            "calibration cache, not the Q/DQ nodes that are written here. Take fp16 on the DLA, or int8 on the GPU."
        )


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
