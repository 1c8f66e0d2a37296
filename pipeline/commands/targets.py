"""`deploy targets`: the table of targets, or one explained."""

import json
from dataclasses import asdict

from pipeline.errors import RecipeError
from pipeline.table import print_table
from targets.base import Target, aliases, catalogue, find_target
from targets.gpu import Gpu

SHOW = "show"


def run(words: list[str], *, as_json: bool) -> None:
    """Print all targets, or the one that `NAME` or `show NAME` names: of the catalogue, or a path of a TOML file."""
    names = words[1:] if words[:1] == [SHOW] else words
    if len(names) > 1 or words == [SHOW]:
        raise RecipeError(
            f"deploy targets {' '.join(words)}: one name is explained at a time, as in: deploy targets cpu."
        )
    found = [find_target(name) for name in names] or catalogue()
    if as_json:
        print(json.dumps([asdict(target) for target in found], indent=2))
    elif not names:
        header = ("target", "what it is", "platform", "runtime", "precisions", "proven at")
        print_table("", header, [_row(target) for target in found])
        for alias, name in aliases().items():
            print(f"{alias} is {name}")
    else:
        _explain(found[0])


def _row(target: Target) -> tuple[str, ...]:
    return (
        target.name,
        target.description,
        target.platform,
        target.runtime if target.gpu is None else f"{target.runtime} {target.gpu.tensorrt}",
        ", ".join(target.precisions),
        ", ".join(target.provable_at),
    )


def _explain(target: Target) -> None:
    print(f"{target.name}: {target.description}")
    for key, value in asdict(target).items():
        if key not in ("name", "description", "gpu"):
            _print_fact(key.replace("_", " "), value)
    if target.gpu is not None:
        for fact, value in _facts(target.gpu).items():
            _print_fact(fact, value)


def _print_fact(fact: str, value: object) -> None:
    shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if shown:
        print(f"  {fact:<18} {shown}")


def _facts(gpu: Gpu) -> dict[str, object]:
    smallest, largest = gpu.memory_gib
    with_dla = [module for module in gpu.modules if module not in gpu.modules_without_dla]
    return {
        "JetPack": gpu.jetpack,
        "L4T": tuple(f"R{each}" for each in gpu.l4t),
        "TensorRT": f"{gpu.tensorrt}: an engine runs on this one alone, and is built where it runs",
        "CUDA": gpu.cuda,
        "driver": f"{gpu.driver} or newer" if gpu.driver else "",
        "compute capability": gpu.compute_capability,
        "Python": f"{gpu.python} in the base image",
        "modules": gpu.modules,
        "memory": f"{smallest} to {largest} GiB",
        "DLA": f"up to {gpu.dla_cores} cores: {', '.join(with_dla)}" if gpu.dla_cores else "none to build for",
        "int8": "yes" if gpu.int8 else "no: fp16 is the fastest",
    }
