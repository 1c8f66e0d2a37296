"""Compare methods of choosing int8 scales, on a checkpoint and its data:

    python benchmarks/compare_scales.py --data FOLDER resnet20.pth                        unpruned
    python benchmarks/compare_scales.py --data FOLDER resnet20.pth --pruned PRUNE_FOLDER  what stage `prune` wrote

For each: only calibrated (PTQ) and trained for `--epochs` (QAT, as in stage `quantize`), on the gate's images:

    divergence   mean Kullback-Leibler divergence from the output of the float, unpruned network: QAT's teacher
    drop         top-1 drop against the same network in float before quantization, in points, paired, with a 95 %
                 interval (Tango 1998): for a pruned network the cost of quantization, not of pruning

`u8` is ONNX Runtime's grid, `s8` TensorRT's. Set OMP_NUM_THREADS=1.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scales.averaged import AveragedRange
from scales.clipped import best_shares
from scales.learned import LearnedRange, learn_weights
from torch import fx, nn

from pipeline.artifacts import ActivationRange, Checkpoint
from pipeline.data.batches import Batches
from pipeline.data.readers import Dataset, open_dataset, preprocessing_from
from pipeline.load.load import stored_preprocessing
from pipeline.models.checkpoint import build_network, load_checkpoint
from pipeline.progress import Silent
from pipeline.quantize.fake_quant import Mode, Point, QuantizedConv2d, QuantizedLinear, set_mode
from pipeline.quantize.network import points_of, prepare, quantized_layers
from pipeline.quantize.quantize import calibrate, fit_on_grid
from pipeline.recipe import PreprocessingRecipe
from pipeline.training.allocator import keep_freed_memory
from pipeline.training.evaluation import divergence, logits_of
from pipeline.training.loop import seed_everything
from pipeline.workplace import Data, Workplace
from targets.device.gate.judge import judge
from targets.device.model.preprocess import Preprocessing

MODES = {"u8": Mode.ONNXRUNTIME, "s8": Mode.TENSORRT}


@dataclass(frozen=True, kw_only=True)
class Way:
    """A method of choosing scales."""

    name: str
    range_of: Callable[[Point], ActivationRange]
    moving: type[AveragedRange] | type[LearnedRange] | None = None
    """How ranges change in training; None: they are fixed."""
    of_weights: Callable[[QuantizedConv2d | QuantizedLinear], None] | None = None
    """Scales of weights; None: the current maximum of each channel."""
    starts_as: str = ""
    """Name of the method with the same calibration, from which it differs only in training."""


def mse(point: Point) -> ActivationRange:
    return point.histogram.best_range(post_relu=point.post_relu)


def percentile(share: float) -> Callable[[Point], ActivationRange]:
    return lambda point: point.histogram.percentile_range(share, post_relu=point.post_relu)


def clip(layer: QuantizedConv2d | QuantizedLinear) -> None:
    layer.quantizer.shares = best_shares(layer.weight, layer.quantizer.limit)


WAYS = (
    Way(name="mse", range_of=mse),
    Way(name="percentile 99.9", range_of=percentile(0.999)),
    Way(name="percentile 99.99", range_of=percentile(0.9999)),
    Way(name="ema of maxima", range_of=percentile(1.0), moving=AveragedRange),
    Way(name="mse, weights mse", range_of=mse, of_weights=clip),
    Way(name="lsq", range_of=mse, moving=LearnedRange, starts_as="mse"),
    Way(name="lsq, weights lsq", range_of=mse, moving=LearnedRange, of_weights=learn_weights, starts_as="mse"),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    network: nn.Module
    """The network to quantize."""
    teacher: nn.Module
    dataset: Dataset
    preprocessing: Preprocessing
    gate: Batches
    before: NDArray[np.float32]
    """Logits of `network` in float."""
    wanted: NDArray[np.float32]
    """Logits of `teacher`."""


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the float network, unpruned")
    parser.add_argument("--data", required=True, help="as `deploy build --data`")
    parser.add_argument(
        "--pruned", type=Path, help="folder that stage `prune` wrote; its network is quantized instead"
    )
    parser.add_argument("--epochs", type=int, default=1, help="epochs of quantization-aware training; 0: only PTQ")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--ways", nargs="*", default=[], help=f"of {', '.join(way.name for way in WAYS)}; default: all"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        case = case_of(arguments.checkpoint, arguments.pruned, arguments.data, Path(scratch))
    right, originally = (
        float((each.argmax(1) == case.gate.images.labels).mean()) for each in (case.before, case.wanted)
    )
    print(
        f"{len(case.dataset.training)} training and {len(case.gate.images)} gate images; float top-1 {right:.2%}, "
        f"divergence {divergence(case.before, case.wanted):.5f}; unpruned {originally:.2%}\n"
        f"{'scales':<18}{'':<5}{'grid':<6}{'divergence':>11}{'top-1':>9}  {'drop, 95 % interval':<26}{'seconds':>8}",
        flush=True,
    )
    for way in WAYS:
        if not arguments.ways or way.name in arguments.ways:
            for line in compare(case, way, arguments.epochs, arguments.seed):
                print(line, flush=True)


def compare(case: Case, way: Way, epochs: int, seed: int) -> Iterator[str]:
    seed_everything(seed)
    started = time.monotonic()
    quantized = prepare(case.network, weight_bits=8)
    calibrate(quantized, Data(dataset=case.dataset, preprocessing=case.preprocessing), progress=Silent())
    for point in points_of(quantized):
        point.range = way.range_of(point)
    for layer in quantized_layers(quantized).values():
        if way.of_weights is not None:
            way.of_weights(layer)
    if not way.starts_as:
        yield from lines(case, quantized, way, "PTQ", time.monotonic() - started)
    if epochs == 0:
        return
    started = time.monotonic()
    for point in points_of(quantized):
        point.moving = None if way.moving is None else way.moving(point.known_range())
    fit_on_grid(
        quantized,
        case.teacher,
        Data(dataset=case.dataset, preprocessing=case.preprocessing),
        epochs=epochs,
        seed=seed,
        at=Workplace(folder=Path(), progress=Silent()),
    )
    yield from lines(case, quantized, way, "QAT", time.monotonic() - started)


def lines(case: Case, quantized: fx.GraphModule, way: Way, how: str, seconds: float) -> Iterator[str]:
    quantized.eval()
    for grid, mode in MODES.items():
        set_mode(quantized, mode)
        answers = logits_of(quantized, case.gate)
        found = judge(case.gate.images.labels, case.before, answers, classes=case.dataset.classes, max_drop=1.0)
        low, high = found.drop_interval_points
        drop = f"{found.drop_points:+.2f} [{low:+.2f}, {high:+.2f}]"
        yield (
            f"{way.name:<18}{how:<5}{grid:<6}{divergence(answers, case.wanted):>11.5f}"
            f"{found.artifact_top1:>9.2%}  {drop:<26}{seconds:>8.1f}"
        )


def case_of(source: Path, pruned: Path | None, data: str, scratch: Path) -> Case:
    dataset = open_dataset(data)
    load_checkpoint(source, factory=None, classes=dataset.classes, input_size=None, folder=scratch / "loaded")
    original = Checkpoint(folder=scratch / "loaded")
    architecture = original.architecture
    preprocessing, _ = preprocessing_from(
        PreprocessingRecipe(),
        family=architecture.family,
        input_size=architecture.input_shape[1:],
        stored=stored_preprocessing(source),
    )
    teacher = build_network(original)
    network = teacher if pruned is None else build_network(Checkpoint(folder=pruned))
    gate = Batches(dataset.gate, preprocessing)
    return Case(
        network=network,
        teacher=teacher,
        dataset=dataset,
        preprocessing=preprocessing,
        gate=gate,
        before=logits_of(network, gate),
        wanted=logits_of(teacher, gate),
    )


if __name__ == "__main__":
    main()
