"""A model folder as an image of TensorRT has it, and a machine of its own for it: the stand-in, and CUDA in C.

The processes that a test starts find both by their environment, as they would find the real ones.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tiny_artifact import PREPROCESSING, manifest_of
from tiny_onnx import CLASSES, write_float, write_int8
from tiny_package import colorful, png

from pipeline.data.images import ImageSet
from pipeline.progress import Silent
from pipeline.validate.shard import pack_shard
from pipeline.workspace.hashing import sha256_of_file
from targets.device.files import SHARD
from targets.device.model.golden import write_golden
from targets.device.model.manifest import TENSORRT, Manifest
from targets.device.model.onnxruntime_session import OnnxRuntimeSession
from targets.device.model.preprocess import normalize

TESTS = Path(__file__).parent
NAMES = ("a", "b", "c", "d")
VERSION = "10.3.0.30"
OPTIONS: dict[str, str | int] = {"max_batch": 8, "threads": 1}
COUNT = 400
BESIDE: dict[str, tuple[str, ...]] = {"none": (), "fp16": ("fp16",), "fastest": ("fp16", "fp32")}


@dataclass(frozen=True, kw_only=True)
class Device:
    """One machine with its engine cache; `settings` are the environment of whatever runs on it."""

    cache: Path
    environment: dict[str, str]

    @property
    def entries(self) -> list[Path]:
        """Finished engines."""
        return sorted(path for path in self.cache.iterdir() if path.is_dir() and not path.name.startswith("."))

    @property
    def left_over(self) -> list[Path]:
        return sorted(path for path in self.cache.iterdir() if path.name.startswith(".building-"))


def tiny_device(folder: Path, library: Path, *, version: str = VERSION, **changes: object) -> Device:
    """With TensorRT and an Orin, both standing in; `library` is that of `test_cudart`."""
    libraries, modules, cache = folder / "libraries", folder / "modules", folder / "cache"
    for each in (libraries, modules):
        each.mkdir(parents=True)
    # By this name it is found before one that is installed here.
    shutil.copyfile(library, libraries / "libcudart.so.13")
    (modules / "tensorrt.py").write_text(
        f"import sys\nfrom stand_in_tensorrt import StandIn\nsys.modules['tensorrt'] = StandIn({version!r})\n"
    )
    environment = {
        "PYTHONPATH": f"{modules}:{TESTS}",
        "LD_LIBRARY_PATH": str(libraries),
        "ENGINE_CACHE": str(cache),
        "MEASURE_SECONDS": "0",
    }
    return Device(cache=cache, environment={**environment, **{name: str(value) for name, value in changes.items()}})


def write_tiny_model(
    folder: Path, *, max_drop: float = 1.0, undecided: str = "stop", fallback: str = "none", count: int = COUNT
) -> Manifest:
    """An int8 model that loses nothing, with everything that its first start needs; `count` images for the gate."""
    folder.mkdir(parents=True)
    manifest = _write_part(folder, "int8")
    for precision in BESIDE[fallback]:
        _write_part(folder / precision, precision)
    _write_shard(folder, count)
    terms = {"schema": 1, "max_drop": max_drop, "confidence": 0.95, "undecided": undecided, "fallback": fallback}
    (folder / "first_start.json").write_text(json.dumps(terms))
    return manifest


def answers(folder: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ONNX Runtime answers to the model's file."""
    with OnnxRuntimeSession(folder / "model.onnx", {"graph_optimization_level": "disable"}) as session:
        return session.infer(images)


def classes_of(images: NDArray[np.float32], folder: Path) -> list[int]:
    return [int(each) for each in answers(folder, images).argmax(1)]


def _write_part(folder: Path, precision: str) -> Manifest:
    folder.mkdir(exist_ok=True)
    model = folder / "model.onnx"
    if precision == "int8":
        write_int8(model)
    else:
        write_float(model)
    manifest = replace(
        manifest_of(folder, sha256_of_file(model)),
        target="orin-jp61",
        runtime=TENSORRT,
        runtime_version=VERSION,
        precision=precision,
        weight_bits=8 if precision == "int8" else None,
        session_options=OPTIONS,
    )
    manifest.write(folder)
    pixels = _of_most_classes(folder)
    write_golden(folder, pixels, answers(folder, normalize(pixels, PREPROCESSING)))
    report = {
        "verdict": "pass", "place": "simulated", "images": COUNT, "float_top1": 1.0, "artifact_top1": 1.0,
        "drop_points": 0.0, "drop_interval_points": [0.0, 0.0], "max_drop_points": 1.0, "flip_rate": 0.0,
        "worst_class": "a", "worst_class_drop_points": 0.0, "shard_sha256": "0" * 64,
        "artifact_sha256": manifest.model_sha256, "instruction_set": "avx2", "runtime": "onnxruntime 1.22.0",
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report))
    return manifest


def _of_most_classes(folder: Path) -> NDArray[np.uint8]:
    """Golden images: none of the class that is rarest in the shard, which a test may spoil without their notice."""
    pixels = colorful(60, seed=1)
    found = np.array(classes_of(normalize(pixels, PREPROCESSING), folder))
    chosen: NDArray[np.uint8] = pixels[found != rarest(folder)][:20]
    return chosen


def rarest(folder: Path) -> int:
    """The class with the fewest images in the shard, but with some."""
    counts = np.bincount(classes_of(normalize(colorful(COUNT, seed=2), PREPROCESSING), folder), minlength=CLASSES)
    return int(np.where(counts > 0, counts, COUNT).argmin())


def _write_shard(folder: Path, count: int) -> None:
    """The model's own answers are labels and float answers."""
    pixels = colorful(count, seed=2)
    logits = answers(folder, normalize(pixels, PREPROCESSING))
    encoded = [png(each) for each in pixels]
    names = [f"{index}.png" for index in range(count)]
    images = ImageSet(read=encoded.__getitem__, digests=names, names=names, labels=logits.argmax(1))
    pack_shard(images, logits, classes=NAMES, preprocessing=PREPROCESSING, progress=Silent(), folder=folder)
    assert (folder / SHARD).is_file()
