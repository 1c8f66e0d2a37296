"""Compare Edge Deploy's int8 with ONNX Runtime's quantizer at its best settings, timed in one run:

    python benchmarks/compare_quantizers.py resnet18 resnet50                  random weights, 224 x 224: speed alone
    python benchmarks/compare_quantizers.py --data FOLDER resnet20.pth …          a checkpoint: accuracy on val/, too

`quantize_static` gets the best settings for x86: U8 activations, per-channel S8 weights, after `quant_pre_process`,
calibrated on the same images. Ratios are to the fp32 model; CPU time, batch 1, one thread, interleaved.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from random_artifact import with_random_statistics
from torch import nn

from pipeline.artifacts import Checkpoint, Dialect
from pipeline.data.images import ImageSet
from pipeline.data.readers import open_dataset, preprocessing_from
from pipeline.data.sampling import logits_of_each, pixels_of, spread
from pipeline.models.checkpoint import build_network, load_checkpoint
from pipeline.models.resnet import build_resnet
from pipeline.models.zoo import published_architecture
from pipeline.progress import Silent
from pipeline.quantize.fake_quant import Mode, set_mode
from pipeline.quantize.marked_graph import INPUT, export_marked
from pipeline.quantize.network import points_of, prepare, quantization_of
from pipeline.recipe import PreprocessingRecipe
from pipeline.training.allocator import keep_freed_memory
from targets.device.model.preprocess import Preprocessing, normalize
from targets.dialects.write import write_dialect
from targets.runtimes.onnxruntime.audit import FLOAT_OPERATORS, INT8_OPERATORS
from targets.runtimes.registry import RUNTIMES
from targets.target import find_target

CALIBRATION_IMAGES = 128
RANDOM_IMAGES = 8
TARGET = find_target("cpu")


@dataclass(frozen=True)
class Case:
    name: str
    network: nn.Module
    input_shape: tuple[int, int, int]
    calibration: NDArray[np.float32]
    gate: ImageSet | None
    preprocessing: Preprocessing | None


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Data reader that gives images [N, 3, H, W] to ONNX Runtime's calibration one by one."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="a published name, or a checkpoint file")
    parser.add_argument("--data", help="images for checkpoints: as `deploy build --data`")
    arguments = parser.parse_args()
    print(f"{'network':<24}{'model':<18}{'CPU ms':>9}{'ratio':>7}{'int8':>6}{'float':>6}{'MB':>8}  top-1")
    for network in arguments.networks:
        with tempfile.TemporaryDirectory() as scratch:
            for line in compare(case_of(network, arguments.data, Path(scratch)), Path(scratch)):
                print(line, flush=True)


def compare(case: Case, scratch: Path) -> Iterator[str]:
    models = {
        "fp32": scratch / "fp32.onnx",
        "quantize_static": scratch / "static.onnx",
        "edge-deploy": scratch / "own.onnx",
    }
    quantized = prepare(case.network, weight_bits=8)
    set_mode(quantized, Mode.CALIBRATE)
    with torch.inference_mode():
        for start in range(0, len(case.calibration), 32):
            quantized(torch.from_numpy(case.calibration[start : start + 32]))
    for point in points_of(quantized):
        point.range = point.histogram.best_range(post_relu=point.post_relu)
    quantization = quantization_of(quantized, weight_bits=8, float_layers=())
    marked = export_marked(quantized, case.input_shape)
    onnx.save(write_dialect(marked, quantization, Dialect.FLOAT), models["fp32"])
    onnx.save(write_dialect(marked, quantization, Dialect.ONNXRUNTIME), models["edge-deploy"])
    quant_pre_process(models["fp32"], scratch / "prepared.onnx")
    quantize_static(
        scratch / "prepared.onnx",
        models["quantize_static"],
        Reader(case.calibration),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    runtime = RUNTIMES[TARGET.runtime]
    options = runtime.session_options(TARGET, threads=1)
    latencies = runtime.time(list(models.values()), options=options)
    accuracies = top1(case, list(models.values()))
    for (name, path), latency, accuracy in zip(models.items(), latencies, accuracies, strict=True):
        int8, floats = nodes(path, scratch)
        yield (
            f"{case.name:<24}{name:<18}{latency.cpu_ms:>9.3f}{latency.cpu_ms / latencies[0].cpu_ms:>7.3f}{int8:>6}"
            f"{floats:>6}{path.stat().st_size / 1e6:>8.2f}  {accuracy}"
        )


def top1(case: Case, models: list[Path]) -> list[str]:
    if case.gate is None or case.preprocessing is None:
        return ["-" for _ in models]
    runtime = RUNTIMES[TARGET.runtime]
    options = runtime.session_options(TARGET, threads=1)
    sessions = [runtime.open(path, options=options) for path in models]
    answers = logits_of_each(sessions, case.gate, case.preprocessing, Silent())
    rights = [int((logits.argmax(1) == case.gate.labels).sum()) for logits in answers]
    return [f"{right}/{len(case.gate)} = {right / len(case.gate):.4f}" for right in rights]


def nodes(path: Path, scratch: Path) -> tuple[int, int]:
    """Count the Conv and Gemm of the optimized graph in int8 and in float."""
    from targets.device.model.onnxruntime_session import OnnxRuntimeSession

    optimized = scratch / "optimized.onnx"
    options = RUNTIMES[TARGET.runtime].session_options(TARGET, threads=1)
    OnnxRuntimeSession(path, options, write_optimized=optimized).close()
    kinds = [node.op_type for node in onnx.load(optimized).graph.node]
    return sum(kind in INT8_OPERATORS for kind in kinds), sum(kind in FLOAT_OPERATORS for kind in kinds)


def case_of(network: str, data: str | None, scratch: Path) -> Case:
    if not Path(network).is_file():
        architecture = published_architecture(network, classes=tuple(f"class{index}" for index in range(1000)))
        images = (
            np.random.default_rng(0).standard_normal((RANDOM_IMAGES, *architecture.input_shape)).astype(np.float32)
        )
        module = with_random_statistics(build_resnet(architecture))
        return Case(network, module, architecture.input_shape, images, None, None)
    if data is None:
        raise SystemExit("a checkpoint needs images: --data FOLDER")
    dataset = open_dataset(data)
    folder = scratch / "checkpoint"
    load_checkpoint(Path(network), factory=None, classes=dataset.classes, input_size=None, folder=folder)
    checkpoint = Checkpoint(folder=folder)
    architecture = checkpoint.architecture
    how, _ = preprocessing_from(
        PreprocessingRecipe(), family=architecture.family, input_size=architecture.input_shape[1:]
    )
    pixels = pixels_of(dataset.training, spread(len(dataset.training), CALIBRATION_IMAGES), how)
    module = build_network(checkpoint)
    return Case(Path(network).name, module, architecture.input_shape, normalize(pixels, how), dataset.gate, how)


if __name__ == "__main__":
    main()
