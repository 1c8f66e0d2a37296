"""A target in words: every fact of its file, where it can be proven, and what stays unproven without the device."""

from collections.abc import Iterator

from pipeline.artifacts import Dialect, Place
from targets.base_images import known_bases
from targets.capabilities import dla_reads_qdq, why_no_dla
from targets.gpu import Gpu
from targets.target import Target

DIALECTS = {
    Dialect.FLOAT: "plain float ONNX",
    Dialect.ONNXRUNTIME: "Q/DQ on every tensor that ONNX Runtime runs in int8, unsigned after a ReLU",
    Dialect.TENSORRT: "Q/DQ on the inputs of Conv and Gemm and on the shortcut of residual adds, signed, zero point 0",
}
PLACES = {
    Place.HOST: "host: on the building machine",
    Place.IMAGE: "image: in the container, on the building machine",
    Place.EMULATED: "emulated: in the container, whose processor QEMU emulates",
    Place.SIMULATED: "simulated: ONNX Runtime stands in for TensorRT's arithmetic, on the building machine",
    Place.DEVICE: "device: on the device itself",
}


def explain(target: Target) -> Iterator[tuple[str, str]]:
    """A label and a sentence for each fact."""
    yield "platform", f"Images are for {target.platform}."
    yield "runtime", f"The model runs with {'TensorRT' if target.gpu else 'ONNX Runtime on the CPU'}."
    if target.gpu is not None:
        yield from _explain_gpu(target, target.gpu)
    if target.instruction_sets:
        sets = ", ".join(target.instruction_sets)
        yield "instruction sets", f"int8 relies on one of these, best first: {sets}."
    yield "precisions", f"{', '.join(target.precisions)} are considered."
    yield "dialect", f"The ONNX file is written as {target.dialect}: {DIALECTS[target.dialect]}."
    yield "pruning", f"Widths stay multiples of {target.channel_multiple} where a layer is wide enough."
    yield "base image", _base_image(target)
    yield "can be proven", "; ".join(PLACES[place] for place in target.provable_at) + "."
    yield "a release needs", f"a report of the place {target.required_place}, unless the recipe asks for more."
    yield "unproven without", _unproven(target)
    yield "this version", _this_version(target)


def _explain_gpu(target: Target, gpu: Gpu) -> Iterator[tuple[str, str]]:
    yield "modules" if gpu.is_jetson else "cards", f"{', '.join(gpu.modules)}."
    if gpu.is_jetson:
        yield "JetPack", f"{gpu.jetpack}: Jetson Linux (L4T) {', '.join(gpu.l4t)}, and no other."
    else:
        yield "driver", f"{gpu.driver}, for CUDA {gpu.cuda}."
    where = f"JetPack {gpu.jetpack} has" if gpu.is_jetson else "The base image has"
    yield "TensorRT", f"{where} {gpu.tensorrt}; an engine fits the one it was built with, to the fourth part."
    yield "CUDA", f"{gpu.cuda}."
    alone = ": an engine fits one of them alone" if len(gpu.compute_capability) > 1 else ""
    yield "compute capability", f"{', '.join(gpu.compute_capability)}{alone}."
    yield "int8", "The hardware has it." if gpu.int8 else "The hardware has none: fp16 is the fastest."
    yield "DLA", _dla(target, gpu)
    smallest, largest = gpu.memory_gib
    memory = f"{smallest} GiB" if smallest == largest else f"{smallest} to {largest} GiB, by module"
    yield "memory", f"{memory}{', shared by CPU and GPU' if gpu.is_jetson else ''}."
    yield "Python", f"{gpu.python} in the base image: the device code runs on it."
    here = "on the device, or on the building machine where it has such a card."
    yield "engines are built", here if gpu.engine_build == "host" else "on the device, never on another machine."


def _dla(target: Target, gpu: Gpu) -> str:
    reason = why_no_dla(target)
    if reason is not None:
        return f"None to use: {reason}."
    without = [module for module in gpu.modules if module.startswith("Orin Nano")]
    except_for = f"; none on {', '.join(without)}" if without else ""
    runs = "fp16 and int8" if dla_reads_qdq(gpu) else "fp16; int8 of this dialect stays on the GPU"
    return f"{gpu.dla_cores} at most{except_for}. They run {runs}."


def _base_image(target: Target) -> str:
    base = known_bases().get(target.base_image)
    if base is None:
        return f"{target.base_image}, which docker/images.toml does not have: name one with --base-image."
    tensorrt = f" and TensorRT {base.tensorrt}" if base.tensorrt else ""
    return f"{base.tag}, with Python {base.python}{tensorrt}; --base-image names another."


def _unproven(target: Target) -> str:
    if target.gpu is not None:
        return (
            "the device: speed, memory, power, which layers really run in int8, and accuracy, of which a "
            "simulation says only what it should be."
        )
    if Place.EMULATED in target.provable_at:
        return "the device: speed. Accuracy is proven under emulation, which computes what the device does."
    return "the device: its speed. A device of another instruction set proves itself by its golden images at start."


def _this_version(target: Target) -> str:
    if target.gpu is None:
        return "builds, proves and packages it."
    return (
        "simulates its accuracy, and packages an image that builds its engine and proves it where it is started; the "
        "project has not run that on such a device yet."
    )
