"""The training loop: its schedule, its losses, what it leaves alone and where it stops."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from random_statistics import with_random_statistics
from tiny_networks import CLASSES, Rigid, network_of, own
from tiny_trained import Recorded, digits, is_same, preprocessing, state_of
from torch import Tensor, fx, nn

from pipeline.data.batches import Batches
from pipeline.errors import CompressionError
from pipeline.models.resnet import build_resnet
from pipeline.models.zoo import residual
from pipeline.training.evaluation import logits_of, top1_of
from pipeline.training.loop import LARGEST_GRADIENT, MOMENTUM, Training, rate_at, seed_everything
from pipeline.training.loss import Loss, cross_entropy
from pipeline.training.snapshot import tensors_of
from pipeline.workplace import Workplace
from pipeline.workspace.hashing import Json
from pipeline.workspace.training_state import Continuation

ARCHITECTURE = residual(depths=(1, 1), stage_widths=(4, 8), classes=CLASSES, input_size=(16, 16))
TEN = residual(depths=(1, 1), stage_widths=(4, 8), classes=digits().classes, input_size=(16, 16))


def test_micro_batches_train_as_the_whole_batch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """With statistics of batch normalization frozen, where no image depends on its neighbours."""
    whole = train(fresh(), frozen_statistics=True)
    monkeypatch.setattr("pipeline.training.microbatches.PIXELS", 10 * 16 * 16)  # 32 images in four parts
    parts = train(fresh(), frozen_statistics=True)
    for name, value in tensors_of(whole).items():
        torch.testing.assert_close(tensors_of(parts)[name], value, rtol=1e-3, atol=1e-5)


def batches(count: int = 96, seed: int = 0, *, shuffle: bool = True) -> Batches:
    images = digits().training.subset(range(count))
    return Batches(images, preprocessing(), batch_size=32, seed=seed, shuffle=shuffle, augment=shuffle)


def fresh() -> nn.Module:
    return network_of(TEN)


def train(
    network: nn.Module,
    *,
    images: int = 96,
    epochs: int = 1,
    learning_rate: float = 0.05,
    loss: Loss = cross_entropy,
    seed: int = 0,
    frozen_statistics: bool = False,
    mixed_precision: bool = False,
    weight_decay: float = 0.0,
    selection: Batches | None = None,
    progress: Recorded | None = None,
    continuation: Continuation | None = None,
) -> nn.Module:
    Training(
        network=network,
        batches=batches(images, seed=seed),
        epochs=epochs,
        learning_rate=learning_rate,
        loss=loss,
        frozen_statistics=frozen_statistics,
        mixed_precision=mixed_precision,
        name="recovery",
        weight_decay=weight_decay,
    ).fit(Workplace(folder=Path(), progress=progress or Recorded(), continuation=continuation), selection=selection)
    return network


@pytest.mark.parametrize("total", [1, 2, 5, 100, 2000])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(total: int) -> None:
    rates = [rate_at(step, total, 0.4) for step in range(total)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.4)
    assert all(0 < rate <= 0.4 for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert top <= 0.1 * total
    assert rate_at(total, total, 0.4) == pytest.approx(0, abs=1e-12)


def test_the_rate_is_half_of_its_peak_in_the_middle_of_the_cosine() -> None:
    after_warm_up = next(step for step in range(1001) if rate_at(step, 1001, 1.0) == 1.0)
    middle = (after_warm_up + 1001) // 2
    assert rate_at(middle, 1001, 1.0) == pytest.approx(0.5, abs=0.002)


def test_a_seed_settles_every_generator() -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    seed_everything(5)
    first = draws()
    seed_everything(5)
    assert draws() == first
    seed_everything(6)
    assert all(other != one for other, one in zip(draws(), first, strict=True))


@pytest.mark.slow
def test_it_learns_and_says_so_once_per_epoch() -> None:
    progress = Recorded()
    selection = Batches(digits().selection, preprocessing())
    seed_everything(0)
    network = build_resnet(TEN)
    before = top1_of(network, selection)
    train(network, images=897, epochs=6, learning_rate=0.1, selection=selection, progress=progress)
    assert not network.training
    after = top1_of(network, selection)
    assert before < 0.3
    assert after > 0.5
    assert [line.split("  ")[0] for line in progress.lines] == [f"recovery: epoch {n}/6" for n in range(1, 7)]
    assert progress.lines[-1].endswith(f"selection {after:.1%}")


def test_same_seed_same_weights() -> None:
    first, again, other = (state_of(train(fresh(), epochs=2, seed=seed)) for seed in (0, 0, 1))
    assert is_same(first, again)
    assert not is_same(first, other)


class Stopping(Recorded):
    """Ends the training as an interrupt does, once an epoch's line is written."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def line(self, text: str) -> None:
        super().line(text)
        if f"epoch {self.after}/" in text:
            raise KeyboardInterrupt


def stopped(file: Path, *, after: int, learning_rate: float = 0.05) -> Continuation:
    """A training of three epochs that is stopped when so many are done, the last one not yet kept."""
    continuation = Continuation(file=file, fingerprint="a")
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), epochs=3, learning_rate=learning_rate, progress=Stopping(after), continuation=continuation)
    return continuation


def test_a_stopped_training_goes_on_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    seed_everything(3)
    undisturbed = train(fresh(), epochs=3)
    drawn = random.random(), float(np.random.rand()), float(torch.rand(()))
    seed_everything(3)
    continuation = stopped(tmp_path / "state", after=2)
    seed_everything(4)
    progress, resumed = Recorded(), build_resnet(TEN)
    train(resumed, epochs=3, progress=progress, continuation=continuation)
    heads = [line.split("  ")[0] for line in progress.lines]
    assert heads == ["recovery: resumes after epoch 1 of 3", "recovery: epoch 2/3", "recovery: epoch 3/3"]
    assert is_same(state_of(resumed), state_of(undisturbed))
    assert not resumed.training
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == drawn


def test_one_that_was_stopped_after_its_last_epoch_trains_no_more(tmp_path: Path) -> None:
    continuation = Continuation(file=tmp_path / "state", fingerprint="a")
    finished = train(fresh(), epochs=2, continuation=continuation)
    progress, again = Recorded(), build_resnet(TEN).train()
    train(again, epochs=2, progress=progress, continuation=continuation)
    assert progress.lines == ["recovery: resumes after epoch 2 of 2"]
    assert is_same(state_of(again), state_of(finished))
    assert not again.training


@pytest.mark.parametrize("other", ["epochs", "rate", "statistics", "decay", "images", "network", "recipe"])
def test_another_training_begins_anew_and_says_so(other: str, tmp_path: Path) -> None:
    continuation = stopped(tmp_path / "state", after=2)
    if other == "recipe":
        continuation = Continuation(file=tmp_path / "state", fingerprint="b")
    architecture = residual(depths=(1, 1), stage_widths=(4, 12), classes=digits().classes, input_size=(16, 16))
    progress = Recorded()
    train(
        network_of(architecture) if other == "network" else fresh(),
        epochs=2 if other == "epochs" else 3,
        learning_rate=0.04 if other == "rate" else 0.05,
        frozen_statistics=other == "statistics",
        weight_decay=0.1 if other == "decay" else 0.0,
        images=64 if other == "images" else 96,
        progress=progress,
        continuation=continuation,
    )
    assert "is from another training" in progress.lines[0]
    assert progress.lines[1].startswith("recovery: epoch 1/")
    assert (tmp_path / "state.set-aside").exists()


@pytest.mark.parametrize("is_checksum_right", [True, False])
def test_a_damaged_state_is_set_aside_and_training_begins_anew(is_checksum_right: bool, tmp_path: Path) -> None:
    continuation = stopped(tmp_path / "state", after=2)
    if is_checksum_right:
        # No disk does this; a state that another version of PyTorch cannot read comes close.
        facts: list[Json] = ["recovery", 3, 3, 0.05, 0.0, False, False]
        shapes: dict[str, Json] = {name: list(value.shape) for name, value in tensors_of(fresh()).items()}
        bound = continuation.bound_to([*facts, shapes])
        assert bound.read("recovery", Recorded()) is not None
        bound.keep(b"no snapshot", epochs=1, seconds=1.0, name="recovery", progress=Recorded())
    else:
        damaged = bytearray(continuation.file.read_bytes())
        damaged[len(damaged) // 2] ^= 4
        continuation.file.write_bytes(damaged)
    progress = Recorded()
    found = train(fresh(), epochs=3, progress=progress, continuation=continuation)
    assert progress.lines[0].startswith(f"recovery: starts from the beginning: the state {tmp_path}/state is damaged")
    assert is_same(state_of(found), state_of(train(fresh(), epochs=3)))


def test_a_state_that_cannot_be_written_is_said_and_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    progress = Recorded()
    continuation = Continuation(file=tmp_path / "file" / "state", fingerprint="a")
    found = train(fresh(), epochs=2, progress=progress, continuation=continuation)
    assert [line.partition(": ")[0] for line in progress.lines] == ["recovery", "warning"] * 2
    assert is_same(state_of(found), state_of(train(fresh(), epochs=2)))


def test_no_epochs_change_nothing_but_the_mode() -> None:
    network = fresh().train()
    before = state_of(network)
    train(network, epochs=0)
    assert is_same(state_of(network), before)
    assert not network.training


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_statistics_stay(frozen: bool) -> None:
    network = fresh()
    before = state_of(network)
    after = state_of(train(network, frozen_statistics=frozen))
    for name in before:
        is_statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        is_constant = "downsample" in name
        assert torch.equal(before[name], after[name]) == (is_constant or (is_statistic and frozen)), name


def nothing(logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """A loss without a gradient."""
    return (logits * 0).sum()


def test_decay_is_for_matrices_alone() -> None:
    network = fresh()
    before = state_of(network)
    after = state_of(train(network, loss=nothing, frozen_statistics=True, weight_decay=0.1))
    for name, value in after.items():
        is_matrix = value.ndim > 1 and "downsample" not in name
        if is_matrix:
            assert 0.9 < float(value.norm() / before[name].norm()) < 1
        else:
            assert torch.equal(value, before[name]), name


def test_a_huge_gradient_makes_no_huge_step() -> None:
    def huge(logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        return 1e6 * logits.square().sum()

    network = fresh()
    before = state_of(network)
    trained = [name for name, value in network.named_parameters() if value.requires_grad]
    Training(
        network=network,
        batches=Batches(digits().training.subset(range(8)), preprocessing()),
        epochs=1,
        learning_rate=0.01,
        loss=huge,
        frozen_statistics=True,
        mixed_precision=False,
        name="one step",
        weight_decay=0.0,
    ).fit(Workplace(folder=Path(), progress=Recorded()), selection=None)
    moved = math.sqrt(sum(float((network.state_dict()[name] - before[name]).square().sum()) for name in trained))
    assert moved == pytest.approx(0.01 * (1 + MOMENTUM) * LARGEST_GRADIENT, rel=1e-3)


def test_an_explosion_is_an_error_that_says_where() -> None:
    with pytest.raises(
        CompressionError, match=r"recovery: the loss is not finite at epoch \d, step \d .*Lower the learning"
    ):
        train(fresh(), epochs=3, learning_rate=1e25)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_without_a_number_stops_before_it_spoils_the_weights(value: float) -> None:
    def broken(logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        return logits.sum() * value

    network = fresh()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    with pytest.raises(CompressionError, match=r"epoch 1, step 1 \(learning rate 0\.05\)"):
        train(network, loss=broken)
    assert all(torch.equal(before[name], parameter) for name, parameter in network.named_parameters())


def test_logits_come_in_the_images_order_and_the_mode_is_kept() -> None:
    network = fresh().train()
    network.get_submodule("bn1").eval()
    modes = [module.training for module in network.modules()]
    before = state_of(network)
    ordered = batches(40, shuffle=False)
    found = logits_of(network, ordered)
    assert [module.training for module in network.modules()] == modes
    assert is_same(state_of(network), before)
    images = torch.cat([images for images, _ in ordered.epoch(0)])
    with torch.no_grad():
        expected = network.eval()(images).numpy()
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, abs=1e-4)
    assert top1_of(network, ordered) == np.mean(expected.argmax(axis=1) == ordered.images.labels)
    with pytest.raises(AssertionError):
        logits_of(network, batches(40, shuffle=True))


def test_networks_that_rely_on_the_usual_memory_layout_are_run_in_it() -> None:
    """`view` fails on channels last, so only our own networks get that layout."""
    network = own(Rigid)
    ordered = Batches(digits().training.subset(range(8)), preprocessing())
    found = logits_of(network, ordered)
    traced = logits_of(fx.symbolic_trace(network), ordered)
    (images,) = (images for images, _ in ordered.epoch(0))
    with torch.no_grad():
        assert found == pytest.approx(network(images).numpy(), abs=1e-5)
    assert (traced == found).all()


def test_a_traced_network_trains_like_the_one_it_was_traced_from() -> None:
    network = with_random_statistics(build_resnet(ARCHITECTURE), seed=3)
    traced = fx.symbolic_trace(network)
    ordered = Batches(digits().training.subset(range(8)), preprocessing())
    assert logits_of(traced, ordered) == pytest.approx(logits_of(network, ordered), abs=1e-5)
