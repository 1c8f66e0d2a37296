"""`deploy train`: what is refused before the training, what is written, and what fine-tuning starts from."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_trained import Recorded, architecture, digits, write_weights

from pipeline.data.readers import Dataset, ImageSet
from pipeline.errors import CheckpointError, DataError, RecipeError
from pipeline.load.baseline import read_baseline
from pipeline.load.load import load, stored_preprocessing
from pipeline.recipe import PreprocessingRecipe
from pipeline.training.train import Trained, TrainSettings, train
from pipeline.workspace.hashing import sha256_of_file

DIM = PreprocessingRecipe(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


def few(images: int = 96, classes: int = 10) -> Dataset:
    """Digits below `classes`, few enough to train on in a blink."""
    whole = digits()

    def below(part: ImageSet, count: int) -> ImageSet:
        return part.subset(np.flatnonzero(part.labels < classes)[:count])

    return replace(
        whole,
        classes=whole.classes[:classes],
        training=below(whole.training, images),
        selection=below(whole.selection, 40),
    )


def run(
    output: Path,
    *,
    dataset: Dataset | None = None,
    checkpoint: Path | None = None,
    network: str = "resnet8",
    epochs: int = 1,
    learning_rate: float | None = None,
    seed: int = 0,
    preprocessing: PreprocessingRecipe | None = None,
    progress: Recorded | None = None,
) -> Trained:
    return train(
        dataset or few(),
        TrainSettings(
            preprocessing=preprocessing or PreprocessingRecipe(),
            network=network,
            checkpoint=checkpoint,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=32,
            seed=seed,
        ),
        progress=progress or Recorded(),
        output=output,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(tmp_path_factory.mktemp("train") / "new" / "digits.safetensors", preprocessing=DIM)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    write_weights(tmp_path / "start.safetensors")
    return tmp_path / "start.safetensors"


def test_weights_classes_and_preprocessing_are_in_the_one_file_it_writes(trained: Trained) -> None:
    assert [path.name for path in trained.path.parent.iterdir()] == ["digits.safetensors"]
    assert trained.architecture.name == "resnet8"
    assert (trained.preprocessing.mean, trained.preprocessing.std) == (DIM.mean, DIM.std)
    assert trained.preprocessing.crop == (32, 32)
    assert stored_preprocessing(trained.path) == trained.preprocessing
    with safe_open(trained.path, framework="numpy") as file:
        assert json.loads(file.metadata()["edge-deploy"])["classes"] == list(digits().classes)
    assert 0 <= trained.selection_top1 <= 1
    assert trained.selection_images == 40


@pytest.mark.slow
def test_load_takes_the_stored_preprocessing_and_assumes_nothing(tmp_path: Path) -> None:
    """Well enough trained to be above chance; the same top-1 on the same images."""
    trained = run(tmp_path / "digits.safetensors", dataset=few(600), epochs=2, preprocessing=DIM)
    progress = Recorded()
    load(
        trained.path,
        factory=None,
        dataset=few(),
        preprocessing=PreprocessingRecipe(),
        progress=progress,
        folder=tmp_path / "loaded",
    )
    baseline = read_baseline(tmp_path / "loaded")
    assert baseline.selection_right / baseline.selection_images == trained.selection_top1
    assert baseline.selection_images == 40
    assert json.loads((tmp_path / "loaded" / "preprocessing.json").read_text())["mean"] == list(DIM.mean or ())
    assert progress.lines == []


def test_same_seed_same_file(trained: Trained, tmp_path: Path) -> None:
    again = run(tmp_path / "again.safetensors", preprocessing=DIM)
    other = run(tmp_path / "other.safetensors", preprocessing=DIM, seed=1)
    assert sha256_of_file(again.path) == sha256_of_file(trained.path)
    assert sha256_of_file(other.path) != sha256_of_file(trained.path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.pth", r"weights\.pth must be a \.safetensors file"),
        ("weights", r"weights must be a \.safetensors file"),
        ("file/weights.safetensors", r"weights\.safetensors cannot be written: (File exists|Not a directory)"),
        ("file/deeper/weights.safetensors", r"weights\.safetensors cannot be written: Not a directory\. Give"),
        ("folder.safetensors", r"folder\.safetensors is a folder\. Give a file with --output"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_training(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.safetensors").mkdir()
    progress = Recorded()
    with pytest.raises(RecipeError, match=message):
        run(tmp_path / name, progress=progress)
    assert progress.lines == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(RecipeError, match=r"digits\.safetensors cannot be written"):
        run(tmp_path / "closed" / "digits.safetensors")


@pytest.mark.parametrize("rate", [0.0, -0.1, float("nan")])
def test_a_learning_rate_that_teaches_nothing_is_refused_not_replaced(rate: float, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=rf"the learning rate is {rate:g}, but must be above 0"):
        run(tmp_path / "digits.safetensors", learning_rate=rate)


def test_fine_tuning_starts_from_the_checkpoint(start: Path, tmp_path: Path) -> None:
    progress = Recorded()
    tuned = run(tmp_path / "tuned.safetensors", checkpoint=start, learning_rate=1e-12, progress=progress)
    before, after = load_file(start), load_file(tuned.path)
    for name, parameter in before.items():
        if name.endswith(("weight", "bias")):
            assert torch.allclose(after[name], parameter, atol=1e-6), name
    assert tuned.architecture.widths == architecture().widths
    assert not any("new head" in line for line in progress.lines)
    assert not any("running" in name and torch.equal(after[name], before[name]) for name in before)


def test_another_number_of_classes_gets_a_new_head(start: Path, tmp_path: Path) -> None:
    progress = Recorded()
    tuned = run(
        tmp_path / "tuned.safetensors",
        dataset=few(classes=3),
        checkpoint=start,
        learning_rate=1e-12,
        progress=progress,
    )
    before, after = load_file(start), load_file(tuned.path)
    assert f"new head: 3 classes instead of the 10 of {start}" in progress.lines
    assert after["fc.weight"].shape == (3, 32)
    assert tuned.architecture.classes == ("0", "1", "2")
    assert torch.allclose(after["layer3.0.conv2.weight"], before["layer3.0.conv2.weight"], atol=1e-6)


def test_a_given_learning_rate_is_the_one_it_trains_with(start: Path, tmp_path: Path) -> None:
    def moved(rate: float | None) -> float:
        tuned = run(tmp_path / f"{rate}.safetensors", checkpoint=start, learning_rate=rate)
        difference = load_file(tuned.path)["conv1.weight"] - load_file(start)["conv1.weight"]
        return float(difference.abs().max())

    assert moved(1e-6) < moved(None) < moved(0.5)


def test_a_checkpoint_that_is_no_resnet_is_named(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: no ResNet in this file"):
        run(tmp_path / "tuned.safetensors", checkpoint=tmp_path / "other.pth")


def test_an_unknown_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="resnet9 is not a published network"):
        run(tmp_path / "new.safetensors", network="resnet9")


@pytest.mark.parametrize("part", ["training", "selection"])
def test_too_few_images_are_refused(part: str, tmp_path: Path) -> None:
    whole = few()
    empty = whole.training.subset([])
    dataset = replace(whole, training=empty) if part == "training" else replace(whole, selection=empty)
    with pytest.raises(DataError, match=r"training images are too few"):
        run(tmp_path / "new.safetensors", dataset=dataset)


@pytest.mark.parametrize("part", ["training", "selection"])
def test_images_that_cannot_be_decoded_are_named_before_the_training(part: str, tmp_path: Path) -> None:
    broken = ImageSet(
        read=lambda index: b"no image",
        digests=["0"] * 20,
        names=[f"{part}/{index}.png" for index in range(20)],
        labels=np.arange(20) % 10,
    )
    dataset = replace(few(), training=broken) if part == "training" else replace(few(), selection=broken)
    with pytest.raises(DataError, match=rf"20 of 20 images cannot be used:\s+{part}/0\.png"):
        run(tmp_path / "new.safetensors", dataset=dataset)
    assert list(tmp_path.iterdir()) == []
