"""`deploy targets`: list the targets, or explain one.

The explanation lists every fact of the target's file, where it can be proven, and what needs the device.
"""

import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import AsJson
from pipeline.cli.output import print_table, say
from pipeline.errors import TargetError

if TYPE_CHECKING:
    from targets.gpu import Gpu
    from targets.target import Target

LABEL_WIDTH = 22
DIALECTS = {
    "float": "plain float ONNX",
    "onnxruntime": "Q/DQ on every tensor that ONNX Runtime runs in int8, unsigned after a ReLU",
    "tensorrt": "Q/DQ on the inputs of Conv and Gemm and on the shortcut of residual adds, signed, zero point 0",
}
"""Of `pipeline.artifacts.Dialect`."""
PLACES = {
    "host": "host: on the building machine",
    "image": "image: in the container, on the building machine",
    "emulated": "emulated: in the container, whose processor QEMU emulates",
    "simulated": "simulated: ONNX Runtime stands in for TensorRT's arithmetic, on the building machine",
    "device": "device: on the device itself",
}
"""Of `pipeline.artifacts.Place`."""


def targets(
    words: Annotated[list[str] | None, typer.Argument(metavar="[show] [NAME]")] = None, as_json: AsJson = False
) -> None:
    """List the targets, or explain one."""
    from targets.target import catalogue, find_target

    name = _name_in(words or [])
    found = catalogue() if name is None else [find_target(name)]
    if as_json:
        print(json.dumps([{**asdict(target), "aliases": _aliases_of(target)} for target in found], indent=2))
    elif name is None:
        header = ("target", "what it is", "platform", "runtime", "precisions", "proven at")
        print_table("", header, [_row(target) for target in found])
    else:
        _print_explained(found[0])


def _name_in(words: Sequence[str]) -> str | None:
    match list(words):
        case []:
            return None
        case ["show"]:
            raise TargetError("`deploy targets show` needs a name; `deploy targets` lists them.")
        case [name] | ["show", name]:
            return name
        case _:
            raise TargetError(
                f"`deploy targets` explains one at a time, not {' '.join(words)}: deploy targets show {words[-1]}"
            )


def _aliases_of(target: "Target") -> list[str]:
    from targets.target import aliases

    return [alias for alias, name in aliases().items() if name == target.name]


def _row(target: "Target") -> tuple[str, ...]:
    return (
        " = ".join([target.name, *_aliases_of(target)]),
        target.description,
        target.platform,
        target.runtime,
        ", ".join(target.precisions),
        ", ".join(target.provable_at),
    )


def _print_explained(target: "Target") -> None:
    also = "".join(f" (also called {alias})" for alias in _aliases_of(target))
    say(f"{target.name}{also}: {target.description}")
    width = max(60, min(120, shutil.get_terminal_size((110, 24)).columns))
    for label, sentence in explain(target):
        indent = " " * LABEL_WIDTH
        print(textwrap.fill(sentence, width, initial_indent=f"  {label}".ljust(LABEL_WIDTH), subsequent_indent=indent))


def explain(target: "Target") -> Iterator[tuple[str, str]]:
    """Yield a label and a sentence for each fact."""
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


def _explain_gpu(target: "Target", gpu: "Gpu") -> Iterator[tuple[str, str]]:
    yield "modules" if gpu.is_jetson else "cards", f"{', '.join(gpu.modules)}."
    if gpu.is_jetson:
        yield "JetPack", f"{gpu.jetpack}: Jetson Linux (L4T) {', '.join(gpu.l4t)}, and no other."
    else:
        yield "driver", f"{gpu.driver}, for CUDA {gpu.cuda}."
    where = f"JetPack {gpu.jetpack} has" if gpu.is_jetson else "The base image has"
    yield "TensorRT", f"{where} {gpu.tensorrt}; an engine needs the version it was built with, all four parts."
    yield "CUDA", f"{gpu.cuda}."
    alone = ": an engine runs on only one of them" if len(gpu.compute_capability) > 1 else ""
    yield "compute capability", f"{', '.join(gpu.compute_capability)}{alone}."
    yield "int8", "Supported by the hardware." if gpu.int8 else "Not supported by the hardware: fp16 is the fastest."
    yield "DLA", _dla(target, gpu)
    smallest, largest = gpu.memory_gib
    memory = f"{smallest} GiB" if smallest == largest else f"{smallest} to {largest} GiB, by module"
    yield "memory", f"{memory}{', shared by CPU and GPU' if gpu.is_jetson else ''}."
    yield "Python", f"{gpu.python} in the base image: the device code runs on it."
    here = "on the device, or on the building machine if it has such a card."
    yield "engines are built", here if gpu.engine_build == "host" else "on the device, never on another machine."


def _dla(target: "Target", gpu: "Gpu") -> str:
    from targets.capabilities import dla_reads_qdq, why_no_dla

    reason = why_no_dla(target)
    if reason is not None:
        return f"Not usable: {reason}."
    without = [module for module in gpu.modules if module.startswith("Orin Nano")]
    except_for = f"; none on {', '.join(without)}" if without else ""
    runs = "fp16 and int8" if dla_reads_qdq(gpu) else "fp16; int8 of this dialect stays on the GPU"
    return f"{gpu.dla_cores} at most{except_for}. They run {runs}."


def _base_image(target: "Target") -> str:
    from targets.base_images import known_bases

    base = known_bases().get(target.base_image)
    if base is None:
        return f"{target.base_image}, which is not in docker/images.toml: give one with --base-image."
    tensorrt = f" and TensorRT {base.tensorrt}" if base.tensorrt else ""
    return f"{base.tag}, with Python {base.python}{tensorrt}; --base-image replaces it."


def _unproven(target: "Target") -> str:
    from pipeline.artifacts import Place

    if target.gpu is not None:
        return (
            "the device: speed, memory, power, which layers really run in int8, and accuracy, which a "
            "simulation only predicts."
        )
    if Place.EMULATED in target.provable_at:
        return "the device: speed. Accuracy is proven under emulation, which computes the same as the device."
    return "the device: its speed. A device with another instruction set checks its golden images at start."


def _this_version(target: "Target") -> str:
    if target.gpu is None:
        return "builds, proves and packages it."
    return (
        "simulates its accuracy, and packages an image that builds and proves its engine where it is started; the "
        "project has not run that on such a device yet."
    )
