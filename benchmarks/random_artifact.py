"""Write an artifact of a published network with random weights, to measure speed and memory of serving.

python benchmarks/random_artifact.py resnet18 FOLDER [--precision fp32] [--threads 2]
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.artifacts import Dialect, Precision
from pipeline.compile.artifact_folder import MODEL
from pipeline.models.resnet import build_resnet
from pipeline.models.zoo import published_architecture
from pipeline.quantize.fake_quant import Mode, set_mode
from pipeline.quantize.marked_graph import export_marked
from pipeline.quantize.network import points_of, prepare, quantization_of
from pipeline.training.allocator import keep_freed_memory
from pipeline.workspace.hashing import sha256_of_file
from targets.device.model.cpu import instruction_set
from targets.device.model.golden import write_golden
from targets.device.model.manifest import SCHEMA, Manifest
from targets.device.model.preprocess import Preprocessing, normalize
from targets.device.open_session import open_session
from targets.dialects.write import write_dialect
from targets.runtimes.registry import RUNTIMES
from targets.target import find_target

CALIBRATION_IMAGES, GOLDEN_IMAGES = 8, 8
CLASSES = {"cifar": 10, "torchvision": 1000}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", metavar="NETWORK", help="a published name, e.g. resnet20 or resnet50")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="output folder; must not exist")
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    write_random_artifact(
        arguments.network, arguments.folder, precision=Precision(arguments.precision), threads=arguments.threads
    )
    print(arguments.folder)


def write_random_artifact(
    network: str, folder: Path, *, precision: Precision = Precision.INT8, threads: int = 1
) -> Manifest:
    """Write model, manifest and golden images, as `deploy build` does for the target `cpu`."""
    target = find_target("cpu")
    architecture = published_architecture(network, classes=tuple(f"class{index}" for index in range(1000)))
    classes = tuple(f"class{index}" for index in range(CLASSES[architecture.family]))
    architecture = published_architecture(network, classes=classes)
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    images = random.standard_normal((CALIBRATION_IMAGES, *architecture.input_shape)).astype(np.float32)
    dialect = Dialect.ONNXRUNTIME if precision is Precision.INT8 else Dialect.FLOAT
    onnx.save(quantized_graph(with_random_statistics(build_resnet(architecture)), images, dialect), folder / MODEL)
    channels, height, width = architecture.input_shape
    preprocessing = Preprocessing(resize=None, crop=(height, width), mean=MEAN, std=STD)
    runtime = RUNTIMES[target.runtime]
    manifest = Manifest(
        schema=SCHEMA,
        name=network,
        version="0.1.0",
        target=target.name,
        runtime=target.runtime,
        runtime_version=runtime.version,
        model_file=MODEL,
        model_sha256=sha256_of_file(folder / MODEL),
        precision=precision.value,
        weight_bits=8 if precision is Precision.INT8 else None,
        input_shape=(channels, height, width),
        classes=classes,
        preprocessing=preprocessing,
        session_options=dict(runtime.session_options(target, threads=threads)),
        instruction_set=instruction_set(),
        tolerance=1e-3,
    )
    manifest.write(folder)
    pixels = random.integers(0, 256, (GOLDEN_IMAGES, height, width, channels)).astype(np.uint8)
    with open_session(folder, manifest) as session:
        write_golden(folder, pixels, session.infer(normalize(pixels, preprocessing)))
    return manifest


def quantized_graph(network: nn.Module, images: NDArray[np.float32], dialect: Dialect) -> onnx.ModelProto:
    """Calibrate the network on images [N, 3, H, W] and write it in a dialect."""
    quantized = prepare(network, weight_bits=8)
    set_mode(quantized, Mode.CALIBRATE)
    with torch.inference_mode():
        quantized(torch.from_numpy(images))
    for point in points_of(quantized):
        point.range = point.histogram.best_range(post_relu=point.post_relu)
    quantization = quantization_of(quantized, weight_bits=8, float_layers=())
    channels, height, width = images.shape[1:]
    return write_dialect(export_marked(quantized, (channels, height, width)), quantization, dialect)


def with_random_statistics(network: nn.Module) -> nn.Module:
    """Make biases unequal: equal ones, as in an untrained network, are stored once, which prevents int8 fusion."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.2)
                module.bias.copy_(torch.randn(module.num_features, generator=generator) * 0.2)
    return network.eval()


if __name__ == "__main__":
    main()
