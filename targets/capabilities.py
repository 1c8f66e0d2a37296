"""The combinations of target, precision and accelerator that are not supported, and what to use instead."""

from pipeline.artifacts import Precision
from pipeline.errors import TargetError
from targets.gpu import Gpu
from targets.target import Target, catalogue

LAST_10_WITH_DLA = (10, 7)
FIRST_11_WITH_DLA = (11, 4, 1)
THOR = "11.0"


def check_combination(target: Target, *, precision: Precision | None = None, dla: bool = False) -> None:
    """Raise `TargetError` with an alternative if the target does not support `precision`, or has no usable DLA.

    A family in which only the larger modules have a DLA passes: the exact module is only known on the device.
    """
    if precision is not None:
        _check_precision(target, precision)
    if dla:
        _check_dla(target, precision)


def why_no_dla(target: Target) -> str | None:
    """Return the reason in words; None if the target has a DLA that its TensorRT can use."""
    gpu = target.gpu
    if gpu is None:
        return "it is a CPU"
    if not gpu.is_jetson:
        return "GPUs in a PC or server have no DLA"
    if THOR in gpu.compute_capability:
        return "Thor has no DLA"
    if all(module.startswith("Orin Nano") for module in gpu.modules):
        return "the Orin Nano has no DLA; Orin NX and AGX Orin have one"
    version = _parts(gpu.tensorrt)
    if LAST_10_WITH_DLA < version[:2] < FIRST_11_WITH_DLA[:2] or (11,) < version < FIRST_11_WITH_DLA:
        return (
            f"TensorRT {gpu.tensorrt} (JetPack {gpu.jetpack}) does not support it; 10.x supports it up to 10.7, and "
            "11.x from 11.4.1"
        )
    if version >= FIRST_11_WITH_DLA and not any(module.startswith("AGX Orin") for module in gpu.modules):
        return f"TensorRT {gpu.tensorrt} supports only the DLA of an AGX Orin"
    return None if gpu.dla_cores else "its target file says dla_cores = 0"


def dla_reads_qdq(gpu: Gpu) -> bool:
    """Return whether the DLA takes int8 scales from Q/DQ nodes; before TensorRT 11 it needs a calibration cache."""
    return _parts(gpu.tensorrt) >= (11,)


def precisions_on_dla(target: Target) -> tuple[Precision, ...]:
    """Return the target's precisions that its DLA supports; raise `TargetError` if there is no usable DLA."""
    check_combination(target, dla=True)
    assert target.gpu is not None
    able = {Precision.FP16, Precision.INT8} if dla_reads_qdq(target.gpu) else {Precision.FP16}
    return tuple(precision for precision in target.precisions if precision in able)


def _check_precision(target: Target, precision: Precision) -> None:
    if precision is Precision.INT8 and target.gpu is not None and not target.gpu.int8:
        raise TargetError(
            f"the GPU of the target {target.name} (compute capability {', '.join(target.gpu.compute_capability)}) has "
            "no int8 arithmetic, and TensorRT rejects networks with Q/DQ nodes on it. Use fp16."
        )
    if precision in target.precisions:
        return
    advice = f"Use {' or '.join(target.precisions)}"
    if precision is Precision.FP16 and target.gpu is None:
        advice += "; only targets with a GPU support fp16 (`deploy targets` lists them)"
    raise TargetError(f"the target {target.name} does not support {precision}. {advice}.")


def _check_dla(target: Target, precision: Precision | None) -> None:
    reason = why_no_dla(target)
    if reason is not None:
        able = ", ".join(other.name for other in catalogue() if why_no_dla(other) is None)
        raise TargetError(
            f"the target {target.name} has no usable DLA: {reason}. Run on the GPU instead, or use a target with a "
            f"DLA: {able}."
        )
    assert target.gpu is not None
    if precision is Precision.FP32:
        raise TargetError(f"the DLA of the target {target.name} supports fp16 and int8, not fp32. Use fp16.")
    if precision is Precision.INT8 and not dla_reads_qdq(target.gpu):
        raise TargetError(
            f"with TensorRT {target.gpu.tensorrt}, the DLA of the target {target.name} takes int8 scales from a "
            "calibration cache, not from the exported Q/DQ nodes. Use fp16 on the DLA, or int8 on the GPU."
        )


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
