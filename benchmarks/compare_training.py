"""Compare Edge Deploy's training loop with a bare PyTorch loop, interleaved in one run:

    OMP_NUM_THREADS=1 python benchmarks/compare_training.py resnet20 resnet8
    OMP_NUM_THREADS=1 python benchmarks/compare_training.py --images 256 --batch-size 16 resnet18

Network, batch size, precision, memory format and optimizer are the same. The bare loop gets tensors in memory, or the
output of Edge Deploy's loader; Edge Deploy's loop loads, augments, clips gradients, counts correct predictions and
detects divergence. In the last line it also evaluates each epoch on a selection split of a tenth as many images. CPU
time per step, summed over threads, medians over the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pipeline.data.batches import Batches
from pipeline.data.images import ImageSet
from pipeline.data.preprocessing import usual_preprocessing
from pipeline.models.resnet import build_resnet
from pipeline.models.zoo import published_architecture
from pipeline.progress import Silent
from pipeline.training.allocator import keep_freed_memory
from pipeline.training.loop import MOMENTUM, WEIGHT_DECAY, Training, seed_everything
from pipeline.training.loss import cross_entropy
from pipeline.training.mixed_precision import autocast, has_bfloat16
from pipeline.workplace import Workplace

CLASSES = tuple(f"class{index}" for index in range(10))
RATE = 0.01
Pairs = Iterable[tuple[Tensor, Tensor]]


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="a published name, e.g. resnet20")
    parser.add_argument("--images", type=int, default=1024, help="images per epoch")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each loop, in turn")
    arguments = parser.parse_args()
    precision = "bfloat16" if has_bfloat16() else "float32"
    print(f"{torch.get_num_threads()} threads, batches of {arguments.batch_size}, {precision}")
    print(f"{'network':<12}{'loop':<34}{'ms a step':>10}{'ratio':>8}{'lowest':>9}{'highest':>9}")
    for network in arguments.networks:
        compare(network, arguments.images, arguments.batch_size, arguments.rounds)


def compare(name: str, count: int, batch_size: int, rounds: int) -> None:
    """Print a line per loop; ratios are per round, so that other load on the machine affects both."""
    loops = loops_of(name, count, batch_size)
    for run in loops.values():
        run()  # decodes, and lets kernels be chosen
    taken: dict[str, list[float]] = {loop: [] for loop in loops}
    for _ in range(rounds):
        for loop, run in loops.items():
            started = time.process_time()
            run()
            taken[loop].append(time.process_time() - started)
    first = next(iter(taken.values()))
    steps = -(-count // batch_size)
    for loop, seconds in taken.items():
        ratios = [one / bare for one, bare in zip(seconds, first, strict=True)]
        print(
            f"{name:<12}{loop:<34}{statistics.median(seconds) / steps * 1e3:>10.2f}{statistics.median(ratios):>8.3f}"
            f"{min(ratios):>9.3f}{max(ratios):>9.3f}",
            flush=True,
        )


def loops_of(name: str, count: int, batch_size: int) -> dict[str, Callable[[], None]]:
    architecture = published_architecture(name, classes=CLASSES)
    size = architecture.input_shape[1:]
    preprocessing = usual_preprocessing(architecture.family, input_size=size)
    training = Batches(
        drawn(count, size), preprocessing, batch_size=batch_size, shuffle=True, augment=True, cache_bytes=2**34
    )
    selection = Batches(drawn(max(1, count // 10), size), preprocessing, cache_bytes=2**34)
    ready = [(images.to(memory_format=torch.channels_last), labels) for images, labels in training.epoch(0)]

    def network() -> nn.Module:
        seed_everything(0)
        return build_resnet(architecture)

    def ours(selected: Batches | None) -> None:
        Training(
            network=network(),
            batches=training,
            epochs=1,
            learning_rate=RATE,
            loss=cross_entropy,
            mixed_precision=has_bfloat16(),
            name="train",
        ).fit(Workplace(folder=Path(), progress=Silent()), selection=selected)

    return {
        "bare, tensors in memory": lambda: bare(network(), ready),
        "bare, with our loader": lambda: bare(network(), training.epoch(0)),
        "ours": lambda: ours(None),
        "ours, judged after every epoch": lambda: ours(selection),
    }


def bare(network: nn.Module, pairs: Pairs) -> None:
    """Train with a loop as in a tutorial."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(
        trained, lr=RATE, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY, foreach=True
    )
    network.train()
    for images, labels in pairs:
        with autocast(enabled=has_bfloat16()):
            logits = network(images.to(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()


def drawn(count: int, size: tuple[int, int]) -> ImageSet:
    """Return noise images with labels of all classes."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return ImageSet(
        read=lambda index: pixels[index].tobytes(),
        draw=lambda index: Image.fromarray(pixels[index]),
        digests=[str(index) for index in range(count)],
        names=[f"drawn {index}" for index in range(count)],
        labels=np.arange(count) % len(CLASSES),
    )


if __name__ == "__main__":
    main()
