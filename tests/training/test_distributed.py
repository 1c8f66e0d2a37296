"""Several processes train together: as well as one, to the same bits again, and never without a word."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_networks import network_of
from tiny_trained import Recorded, architecture, digits, is_same, preprocessing, state_of
from torch import nn

from pipeline.data.batches import Batches
from pipeline.data.images import ImageSet
from pipeline.errors import DataError, ProcessLost, RecipeError
from pipeline.models.resnet import build_resnet
from pipeline.quantize.fake_quant import Mode, set_mode
from pipeline.quantize.network import prepare
from pipeline.training.evaluation import top1_of
from pipeline.training.loop import Training, seed_everything
from pipeline.training.loss import Distillation, cross_entropy
from pipeline.workplace import Workplace
from pipeline.workspace.training_state import Continuation

ROOT = Path(__file__).parents[2]
NOISE = 0.05
"""Of top-1 on 800 images between two trainings that differ in the batch normalization's shares."""


def train(
    *,
    processes: int,
    epochs: int = 2,
    images: ImageSet | None = None,
    batch_size: int = 32,
    progress: Recorded | None = None,
    continuation: Continuation | None = None,
) -> nn.Module:
    seed_everything(0)
    network = build_resnet(architecture())
    batches = Batches(images or digits().training, preprocessing(), batch_size=batch_size, shuffle=True, augment=True)
    Training(
        network=network,
        batches=batches,
        epochs=epochs,
        learning_rate=0.1,
        loss=cross_entropy,
        mixed_precision=False,
        name="train",
    ).fit(
        Workplace(folder=Path(), progress=progress or Recorded(), continuation=continuation, processes=processes),
        selection=None,
    )
    return network


BEFORE: set[int] = set()
"""What other tests of this process have left running, such as Python's own tracker of shared memory."""


@pytest.fixture(autouse=True)
def _others() -> None:
    BEFORE.clear()
    BEFORE.update(children())


def children() -> list[int]:
    """Processes that this one has started since the test began and that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        state, parent = rest.split()[:2]
        number = int(name.split()[0])
        if int(parent) == os.getpid() and state != "Z" and number not in BEFORE:
            found.append(number)
    return found


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Doing(Recorded):
    """Does something once the first epoch's line is written."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act = act

    def line(self, text: str) -> None:
        super().line(text)
        if "epoch 1/" in text:
            self.act()


@pytest.fixture(scope="module")
def together() -> nn.Module:
    return train(processes=2, epochs=3)


@pytest.mark.long
def test_two_learn_as_well_as_one(together: nn.Module) -> None:
    gate = Batches(digits().gate, preprocessing())
    alone, shared = top1_of(train(processes=1, epochs=3), gate), top1_of(together, gate)
    assert alone > 0.8
    assert abs(shared - alone) < NOISE
    assert children() == []


@pytest.mark.long
def test_stopped_and_resumed_two_end_in_the_same_bits(together: nn.Module, tmp_path: Path) -> None:
    continuation = Continuation(file=tmp_path / "state", fingerprint="a")

    class Stopping(Recorded):
        def line(self, text: str) -> None:
            super().line(text)
            if "epoch 2/" in text:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(processes=2, epochs=3, progress=Stopping(), continuation=continuation)
    assert children() == []
    progress = Recorded()
    resumed = train(processes=2, epochs=3, progress=progress, continuation=continuation)
    assert progress.lines[0] == "train: resumes after epoch 1 of 3"
    assert is_same(state_of(resumed), state_of(together))


@pytest.mark.slow
def test_one_that_is_killed_ends_the_training_and_is_named() -> None:
    threads, started = torch.get_num_threads(), time.monotonic()

    def kill() -> None:
        (other,) = children()
        os.kill(other, signal.SIGKILL)

    with pytest.raises(ProcessLost, match=r"process 2 of the training was killed by signal 9, .* the same command"):
        train(processes=2, epochs=50, progress=Doing(kill))
    assert time.monotonic() - started < 120
    assert children() == []
    assert torch.get_num_threads() == threads
    assert not torch.distributed.is_initialized()


@pytest.mark.long
def test_the_error_of_another_process_is_ours() -> None:
    images = ImageSet(
        read=OnlyHere(os.getpid(), digits().training),
        digests=digits().training.digests,
        names=digits().training.names,
        labels=digits().training.labels,
    )
    with pytest.raises(DataError, match=r"digits\[\d+\]: gone"):
        train(processes=2, images=images)
    assert children() == []


class OnlyHere:
    def __init__(self, process: int, images: ImageSet) -> None:
        self.process = process
        self.images = images

    def __call__(self, index: int) -> bytes:
        if os.getpid() != self.process:
            raise DataError(f"{self.images.names[index]}: gone")
        return self.images.encoded(index)


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts() -> None:
    with pytest.raises(RecipeError, match="train: 8 processes cannot share a batch of 4 images"):
        train(processes=8, images=digits().training.subset(range(40)), batch_size=4)


def test_what_quantization_aware_training_needs_crosses_too() -> None:
    quantized = prepare(network_of(architecture()), weight_bits=8)
    set_mode(quantized, Mode.CALIBRATE)
    training = Training(
        network=quantized,
        batches=Batches(digits().training, preprocessing()),
        epochs=1,
        learning_rate=0.1,
        loss=Distillation(network_of(architecture()), attention=1.0),
        frozen_statistics=True,
        mixed_precision=False,
        name="quantization-aware training",
        weight_decay=0.0,
    )
    copy = pickle.loads(pickle.dumps(training))
    images, _ = next(copy.batches.epoch(0))
    assert np.array_equal(copy.network(images).detach(), quantized(images).detach())


SCRIPT = f"""
import sys
sys.path[:0] = [{str(ROOT / "tests" / "support")!r}, {str(Path(__file__).parent)!r}]
import test_crew
class Telling(test_crew.Recorded):
    def line(self, text):
        print(text, *test_crew.children(), flush=True)
test_crew.train(processes=2, epochs=500, progress=Telling())
"""


@pytest.mark.long
def test_none_outlives_the_first() -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        other = int(process.stdout.readline().split()[-1])
        process.kill()
    deadline = time.monotonic() + 60
    while is_running(other):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.long
def test_deploy_train_under_torchrun_on_two_nodes_of_one_process_each(tmp_path: Path) -> None:
    """Both on this machine: rank 0 writes, the other says nothing."""
    options = ["-m", "pipeline", "train", "--epochs", "1", "--output", str(tmp_path / "digits.safetensors")]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", tmp_path.name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", *meeting, *options],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [node.communicate(timeout=400)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert sum("wrote" in text for text in said) == sum("epoch 1/1" in text for text in said) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["digits.safetensors"]
