"""Trainings whose process is killed, or stopped, in the second epoch: they go on with it and end in the same bits."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from tiny_quantized import PREPROCESSING, write_original
from tiny_trained import Recorded, digits

from pipeline.artifacts import Checkpoint
from pipeline.data.readers import Dataset
from pipeline.progress import Progress, Silent
from pipeline.prune.prune import prune
from pipeline.prune.settings import PruneSettings
from pipeline.quantize.quantize import quantize
from pipeline.quantize.settings import QuantizeSettings
from pipeline.workplace import Data, Workplace
from pipeline.workspace.hashing import sha256_of_file, sha256_of_folder
from pipeline.workspace.training_state import Continuation, progress_of

ROOT = Path(__file__).parents[2]
SECONDS = 240.0
EPOCHS = 3


def few() -> Dataset:
    return replace(digits(), training=digits().training.subset(range(320)))


def recover(checkpoint: Path, folder: Path, state: Path, progress: Progress | None = None) -> None:
    prune(
        Checkpoint(folder=checkpoint),
        Data(dataset=few(), preprocessing=PREPROCESSING),
        PruneSettings(macs=0.5, epochs=EPOCHS, channel_multiple=4, seed=0),
        Workplace(
            folder=folder, progress=progress or Silent(), continuation=Continuation(file=state, fingerprint="recovery")
        ),
    )


def train_quantized(checkpoint: Path, folder: Path, state: Path, progress: Progress | None = None) -> None:
    folder.mkdir()
    quantize(
        Checkpoint(folder=checkpoint),
        Checkpoint(folder=checkpoint),
        Data(dataset=few(), preprocessing=PREPROCESSING),
        QuantizeSettings(qat_epochs=EPOCHS, weight_bits=7, keep_float=(), seed=0),
        Workplace(
            folder=folder, progress=progress or Silent(), continuation=Continuation(file=state, fingerprint="quantize")
        ),
    )


def wait_for_the_second_epoch(folder: Path, is_running: Callable[[], bool]) -> None:
    """Until the first one is kept in a stage's folder."""
    deadline = time.monotonic() + SECONDS
    while progress_of(folder)[0] < 1:
        assert is_running()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def epochs_kept(folder: Path) -> int:
    """One, if this machine is not so busy that the kill came late."""
    kept, seconds = progress_of(folder)
    assert 1 <= kept < EPOCHS
    assert seconds > 0
    return kept


def is_alive(process: BaseProcess) -> bool:
    return process.is_alive()


@pytest.mark.long
@pytest.mark.parametrize(
    ("stage", "name"),
    [
        pytest.param(recover, "recovery", id="recovery"),
        pytest.param(train_quantized, "quantization-aware training", id="qat", marks=pytest.mark.long),
    ],
)
def test_killed_in_the_second_epoch_it_ends_in_the_same_bits(
    stage: Callable[[Path, Path, Path, Progress | None], None], name: str, tmp_path: Path
) -> None:
    write_original("option A", tmp_path / "checkpoint")
    state = tmp_path / "training" / "state"
    arguments = (tmp_path / "checkpoint", tmp_path / "killed", state, None)
    process = multiprocessing.get_context("spawn").Process(target=stage, args=arguments)
    process.start()
    wait_for_the_second_epoch(state.parent, partial(is_alive, process))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    kept = epochs_kept(state.parent)
    assert not (tmp_path / "killed" / "quantize.json").exists()

    progress = Recorded()
    stage(tmp_path / "checkpoint", tmp_path / "resumed", state, progress)
    assert f"{name}: resumes after epoch {kept} of {EPOCHS}" in progress.lines
    assert not any(f"epoch 1/{EPOCHS}" in line for line in progress.lines)
    stage(tmp_path / "checkpoint", tmp_path / "undisturbed", tmp_path / "other", None)
    assert sha256_of_folder(tmp_path / "resumed") == sha256_of_folder(tmp_path / "undisturbed")


def deploy(*words: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], *, status: int = 0) -> str:
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == status, said
    return said


def stop_in_the_second_epoch(process: subprocess.Popen[str], folder: Path, how: signal.Signals) -> tuple[int, str]:
    """How many epochs are kept then, and what was said."""
    wait_for_the_second_epoch(folder, lambda: process.poll() is None)
    os.killpg(process.pid, how)
    said = end(process, status=130 if how is signal.SIGINT else -how)
    return epochs_kept(folder), said


def train_words(output: str, *, epochs: int = EPOCHS) -> tuple[str, ...]:
    return "train", "--network", "resnet8", "--epochs", str(epochs), "--output", output


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_deploy_train_goes_on_after_a_kill_and_after_ctrl_c(tmp_path: Path) -> None:
    end(deploy(*train_words("undisturbed.safetensors"), cwd=tmp_path))
    for number, how in enumerate((signal.SIGKILL, signal.SIGINT)):
        folder = tmp_path / str(number)
        folder.mkdir()
        # Under the name it has in a stage's folder, so that how far it is can be asked in the same way.
        beside = folder / "digits.safetensors.training"
        (folder / "state").symlink_to(beside)
        process = deploy(*train_words("digits.safetensors"), cwd=folder)
        kept, said = stop_in_the_second_epoch(process, folder, how)
        assert ("Finished stages and epochs are kept" in said) == (how is signal.SIGINT)
        assert beside.is_file()
        said = end(deploy(*train_words("digits.safetensors"), cwd=folder))
        assert f"train: resumes after epoch {kept} of {EPOCHS}" in said
        assert {path.name for path in folder.iterdir()} == {"state", "digits.safetensors"}
        assert sha256_of_file(folder / "digits.safetensors") == sha256_of_file(tmp_path / "undisturbed.safetensors")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_deploy_train_with_other_options_does_not_go_on(tmp_path: Path) -> None:
    (tmp_path / "state").symlink_to("digits.safetensors.training")
    process = deploy(*train_words("digits.safetensors"), cwd=tmp_path)
    stop_in_the_second_epoch(process, tmp_path, signal.SIGKILL)
    said = end(deploy(*train_words("digits.safetensors", epochs=1), cwd=tmp_path))
    assert "train: starts from the beginning: the state digits.safetensors.training is from another training" in said
    assert "It was renamed to digits.safetensors.training.set-aside" in said
    assert "goes on" not in said


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_build_goes_on_in_the_middle_of_recovery_and_of_quantization_aware_training(tmp_path: Path) -> None:
    """The command line's way: state in the workspace, counted by `deploy plan`, gone when the stage is done."""
    end(deploy(*train_words("digits.safetensors", epochs=3), cwd=tmp_path))
    options = (
        "--data",
        "digits",
        "--checkpoint",
        "digits.safetensors",
        "--macs",
        "0.8",
        "--epochs",
        "3",
        "--qat-epochs",
        "3",
    )
    whole = tmp_path / "undisturbed"
    end(deploy("quantize", *options, "--workspace", str(whole), cwd=tmp_path))
    trainings, kept = tmp_path / ".deploy" / "training", 0
    for stage in ("prune", "quantize"):
        process = deploy("quantize", *options, cwd=tmp_path)
        deadline = time.monotonic() + SECONDS
        while not (found := list(trainings.glob(f"{stage}-*/state"))):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.002)
        kept, _ = stop_in_the_second_epoch(process, found[0].parent, signal.SIGKILL)
        planned = end(deploy("plan", *options, cwd=tmp_path)).splitlines()
        assert any(line.split()[0] == stage and f"resumes after epoch {kept} " in line for line in planned if line)
    said = end(deploy("quantize", *options, cwd=tmp_path))
    assert f"quantization-aware training: resumes after epoch {kept} of 3" in said
    assert list(trainings.iterdir()) == []
    for stage in ("prune", "quantize"):
        (one,), (other,) = ((root / stage).iterdir() for root in (whole, tmp_path / ".deploy"))
        assert one.name == other.name
        assert sha256_of_file(one / "weights.safetensors") == sha256_of_file(other / "weights.safetensors")
    end(deploy("clean", cwd=tmp_path))
    assert not trainings.exists()
