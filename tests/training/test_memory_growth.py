"""Peak memory does not grow with the number of images: read from the kernel, in a process that does nothing else."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.data.batches import Batches
from pipeline.data.images import ImageSet
from pipeline.models.resnet import build_resnet
from pipeline.models.surgery import Member, channel_groups
from pipeline.models.zoo import residual
from pipeline.progress import Silent
from pipeline.prune import importance
from pipeline.prune.importance import block_importance, channel_importance
from pipeline.prune.recovery import estimate_statistics
from pipeline.quantize.fake_quant import Mode, set_mode
from pipeline.quantize.network import points_of, prepare
from pipeline.training import microbatches
from pipeline.training.allocator import keep_freed_memory
from pipeline.training.evaluation import logits_of
from pipeline.training.loop import Training
from pipeline.training.loss import ATTENTION, Distillation
from pipeline.workplace import Workplace
from targets.device.model.preprocess import Preprocessing

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SIDE, BATCH = 128, 4
FEW, MANY = 2, 8
"""Batches."""
TIMES = 3
"""Growth that has a cause comes each time; where the allocator puts things differs from one time to the next."""
KIB_PER_MIB = 1024
TOLERANCE_MIB = 24
"""Images count here as pixels and once more as floats; the activations of those that are more are 230 MiB."""
ARCHITECTURE = residual(
    depths=(3, 1), stage_widths=(8, 16), classes=tuple("abcdefghij"), shortcut="B", input_size=(SIDE, SIDE)
)
PREPROCESSING = Preprocessing(resize=None, crop=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def network() -> nn.Module:
    return build_resnet(ARCHITECTURE).eval()


def images(batches: int) -> ImageSet:
    count = batches * BATCH

    def draw(index: int) -> Image.Image:
        pixels = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def read(index: int) -> bytes:
        raise AssertionError(index)

    names = [str(index) for index in range(count)]
    return ImageSet(read=read, draw=draw, digests=names, names=names, labels=np.arange(count) % 10)


def drawn(batches: int) -> Iterator[Tensor]:
    return (part for part, _ in Batches(images(batches), PREPROCESSING, batch_size=BATCH).epoch(0))


def channels(batches: int) -> None:
    groups = channel_groups(network(), ARCHITECTURE.input_shape)
    channel_importance(network(), groups, drawn(batches), seed=0)


def blocks(batches: int) -> None:
    block_importance(network(), ["layer1.1", "layer1.2"], drawn(batches))


def statistics(batches: int) -> None:
    estimate_statistics(network(), images(batches), PREPROCESSING)


def answers(batches: int) -> None:
    """All images in one batch."""
    logits_of(network(), Batches(images(batches), PREPROCESSING))


def recovery(batches: int) -> None:
    """One step on all images."""
    trained_on(batches, network(), Distillation(network(), attention=ATTENTION), BATCH * batches)


def steps(batches: int) -> None:
    """On the grid of int8."""
    quantized = prepare(network(), weight_bits=8)
    set_mode(quantized, Mode.CALIBRATE)
    with torch.no_grad():
        quantized(next(drawn(1)))
    for point in points_of(quantized):
        point.range = point.histogram.best_range(post_relu=point.post_relu)
    set_mode(quantized, Mode.ONNXRUNTIME)
    trained_on(batches, quantized, Distillation(network()), BATCH)


def trained_on(batches: int, student: nn.Module, loss: Distillation, batch_size: int) -> None:
    Training(
        network=student,
        batches=Batches(images(batches), PREPROCESSING, batch_size=batch_size, shuffle=True, augment=True),
        epochs=1,
        learning_rate=1e-3,
        loss=loss,
        mixed_precision=False,
        name="train",
    ).fit(Workplace(folder=Path(), progress=Silent()), selection=None)


def leak(batches: int) -> None:
    """Channels with a hook that holds what it hangs on, which is never freed."""

    def collector(effect: Tensor, member: Member) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
        def before(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            activation = inputs[0].view_as(inputs[0])
            activation.register_hook(lambda gradient: (activation * gradient, None)[1])  # type: ignore[no-untyped-call]
            return (activation,)

        return before

    kept, importance._collector = importance._collector, collector
    try:
        channels(batches)
    finally:
        importance._collector = kept


CASES = (channels, blocks, statistics, answers, recovery, steps)


def peaks_of(work: Callable[[int], None]) -> list[float]:
    """MiB resident at most after few and after many batches; in a process that is as if it had just begun."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        keep_freed_memory()
        found = []
        for batches in (FEW, MANY):
            work(batches)
            found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MIB)
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.waitpid(process, 0)
    os.close(writer)
    with os.fdopen(reader) as told:
        figures: list[float] = json.load(told)
    return figures


def main() -> None:
    microbatches.PIXELS = BATCH * SIDE * SIDE
    torch.optim.SGD(network().parameters())  # imports a lot, once for all
    torch.manual_seed(0)
    sys.stdout.write(json.dumps({work.__name__: [peaks_of(work) for _ in range(TIMES)] for work in (*CASES, leak)}))


@pytest.fixture(scope="module")
def growth() -> dict[str, float]:
    """MiB; the least of all times."""
    done = subprocess.run(
        [sys.executable, __file__],
        capture_output=True,
        text=True,
        check=True,
        # One thread, so that a process can be forked.
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    found: dict[str, list[tuple[float, float]]] = json.loads(done.stdout)
    return {case: min(many - few for few, many in peaks) for case, peaks in found.items()}


@pytest.mark.long
@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_the_peak_after_many_batches_is_that_after_few(case: str, growth: dict[str, float]) -> None:
    assert growth[case] < TOLERANCE_MIB


def test_a_leak_would_be_seen(growth: dict[str, float]) -> None:
    assert growth["leak"] > 5 * TOLERANCE_MIB


if __name__ == "__main__":
    main()
