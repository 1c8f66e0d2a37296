"""Load: checkpoint and data held against each other."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_trained import Recorded, architecture, digits, preprocessing, write_checkpoint, write_weights

from pipeline.artifacts import Checkpoint
from pipeline.data.batches import Batches
from pipeline.data.readers import Dataset, ImageSet, open_dataset
from pipeline.errors import CheckpointError, DataError
from pipeline.load.baseline import read_baseline, read_gate_logits
from pipeline.load.load import load, stored_preprocessing
from pipeline.models.checkpoint import build_network
from pipeline.models.resnet import build_resnet
from pipeline.recipe import PreprocessingRecipe
from pipeline.training.evaluation import logits_of, top1_of
from targets.device.model.preprocess import Preprocessing


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    write_weights(tmp_path / "digits.safetensors")
    return tmp_path / "digits.safetensors"


def loaded(
    source: Path,
    *,
    dataset: Dataset | None = None,
    given: PreprocessingRecipe | None = None,
    progress: Recorded | None = None,
    weights: Literal["auto", "raw", "ema"] = "auto",
) -> Checkpoint:
    folder = source.parent / "loaded"
    folder.mkdir()
    load(
        source,
        factory=None,
        dataset=dataset or digits(),
        preprocessing=given or PreprocessingRecipe(crop=16),
        weights=weights,
        progress=progress or Recorded(),
        folder=folder,
    )
    return Checkpoint(folder=folder)


def test_checkpoint_preprocessing_and_float_accuracy_are_written(weights: Path, tmp_path: Path) -> None:
    progress = Recorded()
    checkpoint = loaded(weights, progress=progress)
    assert sorted(path.name for path in checkpoint.folder.iterdir()) == [
        "architecture.json",
        "baseline.json",
        "cost.json",
        "gate-logits.npy",
        "preprocessing.json",
        "weights.safetensors",
    ]
    assert checkpoint.architecture == architecture()
    images = torch.randn(2, 3, 16, 16)
    trained = build_network(write_checkpoint(tmp_path / "trained"))
    assert torch.equal(build_network(checkpoint)(images), trained(images))
    stored = Preprocessing.from_dict(json.loads((checkpoint.folder / "preprocessing.json").read_text()))
    assert stored == preprocessing()
    baseline = read_baseline(checkpoint.folder)
    assert (baseline.selection_images, baseline.gate_images) == (100, 800)
    assert baseline.selection_right == round(100 * top1_of(trained, Batches(digits().selection, stored)))
    assert baseline.gate_right == round(800 * top1_of(trained, Batches(digits().gate, stored)))
    assert baseline.gate_right > 720
    answers = logits_of(trained, Batches(digits().gate, stored))
    np.testing.assert_array_equal(read_gate_logits(checkpoint.folder), answers)


def test_what_was_assumed_is_said(weights: Path) -> None:
    progress = Recorded()
    loaded(weights, given=PreprocessingRecipe(crop=16, mean=preprocessing().mean, color="rgb"), progress=progress)
    line, of_the_network = progress.lines
    assert of_the_network.startswith(
        "assumed about the network, as weights do not show it: stem with stride 1, no max-"
    )
    assert line.startswith("assumed, as usual for resnet8: shorter side resized to 16; std (0.229, 0.224, 0.225)")
    assert "mean" not in line
    assert "crop" not in line


def test_two_classes_are_not_exchanged_unseen_where_the_training_images_are_few(weights: Path) -> None:
    exchanged = open_dataset("digits", classes=tuple("0125436789"))
    few = replace(
        exchanged, training=exchanged.training.subset(range(250)), selection=exchanged.selection.subset(range(30))
    )
    with pytest.raises(DataError, match=r"\((3 -> 5, 5 -> 3|5 -> 3, 3 -> 5)\)"):
        loaded(weights, dataset=few)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_only_what_was_stored_with_the_weights_counts_as_stored(suffix: str, tmp_path: Path) -> None:
    source = tmp_path / f"plain{suffix}"
    if suffix == ".pth":
        torch.save({"fc.weight": torch.ones(2, 2)}, source)
    else:
        save_file({"fc.weight": torch.ones(2, 2)}, source, metadata={"format": "pt"})
    assert stored_preprocessing(source) is None


def test_what_the_recipe_gives_goes_before_what_is_stored(tmp_path: Path, weights: Path) -> None:
    stored = replace(preprocessing(), mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
    source = tmp_path / "with.safetensors"
    facts = json.dumps({"classes": [*"0123456789"], "preprocessing": stored.to_dict()})
    save_file(load_file(weights), source, metadata={"edge-deploy": facts})
    assert stored_preprocessing(source) == stored
    checkpoint = loaded(source, given=PreprocessingRecipe(std=(0.25, 0.25, 0.25)))
    written = Preprocessing.from_dict(json.loads((checkpoint.folder / "preprocessing.json").read_text()))
    assert written == replace(stored, std=(0.25, 0.25, 0.25))


def test_classes_in_another_order_than_in_training_are_an_error_that_says_so(weights: Path) -> None:
    """Every label is one off: the network is nearly always wrong."""
    with pytest.raises(DataError, match=r"not in the order of training: .*1 -> 2, 2 -> 3") as raised:
        loaded(weights, dataset=open_dataset("digits", classes=tuple("1234567890")))
    assert 'classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]' in str(raised.value)


def test_two_exchanged_classes_are_an_error_though_most_images_are_right(weights: Path) -> None:
    with pytest.raises(DataError, match=r"\((3 -> 5, 5 -> 3|5 -> 3, 3 -> 5)\)"):
        loaded(weights, dataset=open_dataset("digits", classes=tuple("0125436789")))


def test_weights_that_were_never_trained_are_an_error(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(build_resnet(architecture()).state_dict(), tmp_path / "fresh.safetensors")
    with pytest.raises(DataError, match=r"\d+ of 800 images correct \(\d+\.\d\d%\); guessing"):
        loaded(tmp_path / "fresh.safetensors")


@pytest.mark.parametrize("part", ["training", "selection", "gate"])
def test_a_broken_image_is_named_wherever_it_lies(part: str, weights: Path) -> None:
    whole: ImageSet = getattr(digits(), part)
    broken = ImageSet(
        read=lambda index: b"no image" if index == 5 else whole.encoded(index),
        digests=whole.digests,
        names=whole.names,
        labels=np.asarray(whole.labels),
    )
    dataset = replace(digits(), **{part: broken})  # type: ignore[arg-type]
    with pytest.raises(
        DataError, match=rf"1 of {len(whole)} images cannot be used:\s+digits\[{whole.names[5][7:-1]}\]"
    ):
        loaded(weights, dataset=dataset)


def test_a_network_for_other_classes_is_refused(weights: Path) -> None:
    dataset = replace(digits(), classes=("cat", "dog"))
    with pytest.raises(CheckpointError, match="has 10 output classes, the dataset has 2"):
        loaded(weights, dataset=dataset)


def test_weights_trained_on_classes_in_another_order_are_refused(weights: Path) -> None:
    facts = {"classes": [*"0123456798"], "preprocessing": preprocessing().to_dict()}
    save_file(load_file(weights), weights, metadata={"edge-deploy": json.dumps(facts)})
    with pytest.raises(DataError, match=r"8, in this order; digits has 0, 1.*`classes` in the recipe"):
        loaded(weights)


def noisy(state: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: value + torch.randn(value.shape, generator=generator) * value.std() * share
        if value.dim() == 4
        else value
        for name, value in state.items()
    }


@pytest.mark.parametrize(("better", "key"), [("ema", "state_dict_ema"), ("raw", "state_dict")])
def test_of_weights_and_their_average_the_better_is_taken_and_named(
    better: str, key: str, weights: Path, tmp_path: Path
) -> None:
    good = load_file(weights)
    sets = {"state_dict": good, "state_dict_ema": good, "epoch": 9}
    sets["state_dict_ema" if better == "raw" else "state_dict"] = noisy(good, 0.9)
    torch.save(sets, tmp_path / "both.pth")
    progress = Recorded()
    checkpoint = loaded(tmp_path / "both.pth", progress=progress)
    images = torch.randn(2, 3, 16, 16)
    trained = build_network(write_checkpoint(tmp_path / "trained"))
    assert torch.equal(build_network(checkpoint)(images), trained(images))
    said = next(line for line in progress.lines if "weights in the file" in line)
    assert f"Chosen: {better}" in said
    assert f"{better} ({key})" in said
    assert "ignored in both.pth: epoch" in progress.lines


@pytest.mark.parametrize("weights_of", ["raw", "ema"])
def test_an_option_names_the_weights(weights_of: Literal["raw", "ema"], weights: Path, tmp_path: Path) -> None:
    good = load_file(weights)
    worse = noisy(good, 0.1)
    torch.save({"state_dict": worse, "state_dict_ema": good}, tmp_path / "both.pth")
    checkpoint = loaded(tmp_path / "both.pth", weights=weights_of)
    found = load_file(checkpoint.weights)["conv1.weight"]
    assert torch.equal(found, (good if weights_of == "ema" else worse)["conv1.weight"])


def test_an_average_that_is_not_there_cannot_be_asked_for(weights: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no ema weights; it has raw \(the file itself\)"):
        loaded(weights, weights="ema")


def test_a_network_that_answers_nonsense_is_refused(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    state["fc.weight"] = torch.full_like(state["fc.weight"], 3e38)
    save_file(state, tmp_path / "nonsense.safetensors")
    with pytest.raises((CheckpointError, DataError), match=r"800 images are not finite numbers|guessing"):
        loaded(tmp_path / "nonsense.safetensors")
