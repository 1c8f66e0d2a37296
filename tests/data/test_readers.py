"""Opening data by name, the split, and what the user is told."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_progress import Counted

from pipeline.data import readers as dataset_module
from pipeline.data.readers import Dataset, check_images, open_dataset, preprocessing_from, usual_preprocessing
from pipeline.data.sampling import split_stratified
from pipeline.errors import DataError
from pipeline.progress import Silent
from pipeline.recipe import PreprocessingRecipe
from targets.device.model.preprocess import Preprocessing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 20 and 30 training images, five validation images each."""
    root = tmp_path / "coins"
    for split, name, count in (("train", "head", 20), ("train", "tail", 30), ("val", "head", 5), ("val", "tail", 5)):
        (root / split / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng([len(split), len(name[0]) + (name == "tail"), number])
            file = io.BytesIO()
            Image.fromarray(pixels.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")
            (root / split / name / f"{number:02}.png").write_bytes(file.getvalue())
    return root


def all_digests(dataset: Dataset) -> list[str]:
    return sorted(dataset.training.digests + dataset.selection.digests)


def test_selection_has_a_most_whatever_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dataset_module.MAX_SELECTION == 2000
    monkeypatch.setattr(dataset_module, "MAX_SELECTION", 30)
    dataset = open_dataset("digits")
    assert (len(dataset.selection), len(dataset.training)) == (30, 967)
    assert set(np.bincount(dataset.selection.labels)) == {3}


def test_reading_files_is_told(folder: Path) -> None:
    progress = Counted()
    open_dataset(str(folder), progress=progress)
    assert (progress.named("read files").total, progress.named("read files").done) == (60, 60)


@pytest.mark.parametrize("where", ["val", "train"])
def test_images_under_two_classes_are_named_and_left_out(where: str, folder: Path) -> None:
    before = open_dataset(str(folder))
    for number in (1, 3):
        copied = (folder / where / "head" / f"{number:02}.png").read_bytes()
        (folder / where / "tail" / f"again-{number}.png").write_bytes(copied)
    dataset = open_dataset(str(folder))
    (note,) = dataset.notes
    assert note.startswith(f"4 files of the {'gate' if where == 'val' else 'training'} images are in several classes")
    assert f"{where}/head/01.png" in note
    assert f"{where}/tail/again-3.png" in note
    changed, same = ("gate", "training") if where == "val" else ("training", "gate")
    if where == "val":
        assert len(dataset.gate) == len(before.gate) - 2
        assert not any("again" in name or name.endswith(("01.png", "03.png")) for name in dataset.gate.names[:3])
    else:
        assert len(dataset.training) + len(dataset.selection) == len(before.training) + len(before.selection) - 2
    assert getattr(dataset, same).fingerprint == getattr(before, same).fingerprint
    assert getattr(dataset, changed).fingerprint != getattr(before, changed).fingerprint


def test_copies_within_one_class_are_no_conflict(folder: Path) -> None:
    (folder / "val" / "head" / "again.png").write_bytes((folder / "val" / "head" / "01.png").read_bytes())
    dataset = open_dataset(str(folder))
    assert len(dataset.gate) == 11
    assert dataset.notes == ()


def test_selection_is_a_tenth_of_every_class(folder: Path) -> None:
    dataset = open_dataset(str(folder))
    assert np.bincount(dataset.selection.labels).tolist() == [2, 3]
    assert np.bincount(dataset.training.labels).tolist() == [18, 27]
    assert np.bincount(dataset.gate.labels).tolist() == [5, 5]
    assert not set(dataset.training.names) & set(dataset.selection.names)
    assert dataset.notes == ()


def test_the_split_follows_the_seed_alone(folder: Path) -> None:
    first, again, other = (open_dataset(str(folder), seed=seed) for seed in (0, 0, 1))
    assert first.selection.names == again.selection.names
    assert first.fingerprint == again.fingerprint
    assert first.selection.names != other.selection.names
    assert first.fingerprint != other.fingerprint
    assert all_digests(first) == all_digests(other)
    assert first.gate.fingerprint == other.gate.fingerprint


def test_the_fingerprint_is_of_contents_not_of_places(folder: Path, tmp_path: Path) -> None:
    before = open_dataset(str(folder)).fingerprint
    moved = folder.rename(tmp_path / "elsewhere")
    assert open_dataset(str(moved)).fingerprint == before
    (moved / "val" / "head").rename(tmp_path / "swap")
    (moved / "val" / "tail").rename(moved / "val" / "head")
    (tmp_path / "swap").rename(moved / "val" / "tail")
    assert open_dataset(str(moved)).fingerprint != before


def test_class_names_are_part_of_the_fingerprint(folder: Path) -> None:
    before = open_dataset(str(folder)).fingerprint
    for split in ("train", "val"):
        (folder / split / "tail").rename(folder / split / "zail")
    assert open_dataset(str(folder)).fingerprint != before


def test_classes_give_the_training_order(folder: Path) -> None:
    usual, turned = open_dataset(str(folder)), open_dataset(str(folder), classes=("tail", "head"))
    assert turned.classes == ("tail", "head")
    assert turned.gate.labels.tolist() == [1] * 5 + [0] * 5
    assert turned.gate.names == usual.gate.names
    assert turned.fingerprint != usual.fingerprint
    by_name = dict(zip(turned.training.names, turned.training.labels.tolist(), strict=True))
    assert all(label == ("head" in name) for name, label in by_name.items())


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (("head", "coin"), "not in the data: coin; missing: tail"),
        (("head",), "missing: tail"),
        (("head", "tail", "tail"), "named twice: tail"),
    ],
)
def test_classes_that_are_no_permutation(folder: Path, classes: tuple[str, ...], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        open_dataset(str(folder), classes=classes)


def test_images_in_both_train_and_val_are_pointed_out(folder: Path) -> None:
    data = (folder / "train" / "head" / "03.png").read_bytes()
    (folder / "val" / "head" / "02.png").write_bytes(data)
    (note,) = open_dataset(str(folder)).notes
    assert note.startswith("1 of the gate's 10 images are also among the training images, byte for byte")
    assert "val/head/02.png" in note


def test_an_unknown_path_is_named() -> None:
    with pytest.raises(DataError, match="no-such-folder does not exist"):
        open_dataset("no-such-folder")


def test_planning_needs_no_heavy_library(folder: Path) -> None:
    heavy = "{'torch', 'sklearn', 'scipy', 'onnx', 'onnxruntime'}"
    code = (
        "import sys; from pipeline.data.readers import open_dataset; "
        f"open_dataset('digits'); open_dataset({str(folder)!r}); assert not {heavy} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_check_images_names_every_bad_file(folder: Path) -> None:
    sound = open_dataset(str(folder))
    check_images(sound.training, Silent())
    truncated = folder / "val" / "head" / "00.png"
    truncated.write_bytes(truncated.read_bytes()[:-60])
    (folder / "val" / "tail" / "03.png").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        check_images(open_dataset(str(folder)).gate, Silent())
    message = str(caught.value)
    assert "2 of 10 images cannot be used" in message
    assert "val/head/00.png: the PNG file is" in message
    assert "val/tail/03.png: the file is truncated in its header, or not an image" in message


def test_a_file_that_vanishes_after_opening_is_named(folder: Path) -> None:
    dataset = open_dataset(str(folder))
    (folder / "val" / "head" / "01.png").unlink()
    with pytest.raises(DataError, match=r"val/head/01\.png cannot be read: No such file"):
        dataset.gate.encoded(1)
    with pytest.raises(DataError, match="1 of 10 images cannot be used"):
        check_images(dataset.gate, Silent())


@pytest.mark.parametrize("sizes", [(1, 1), (1, 50), (2, 3, 5), (7,), (100, 100, 100), (1, 2, 1000)])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_a_stratified_split_leaves_and_takes_of_every_class(sizes: tuple[int, ...], share: float) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    rest, chosen = split_stratified(labels, count=round(len(labels) * share), seed=3)
    assert sorted([*rest, *chosen]) == list(range(len(labels)))
    for label, size in enumerate(sizes):
        taken = int((labels[chosen] == label).sum())
        assert min(1, size - 1) <= taken <= size - 1
        assert abs(taken - size * share) <= 1


def test_usual_preprocessing_is_the_published_one() -> None:
    imagenet, cifar = usual_preprocessing("torchvision"), usual_preprocessing("cifar")
    assert (imagenet.resize, imagenet.crop) == (256, (224, 224))
    assert (cifar.resize, cifar.crop) == (32, (32, 32))
    assert imagenet.mean == cifar.mean == (0.485, 0.456, 0.406)
    assert imagenet.std == cifar.std == (0.229, 0.224, 0.225)
    assert usual_preprocessing("custom", input_size=(48, 64)).crop == (48, 64)
    assert usual_preprocessing("custom").crop is None


def test_what_the_recipe_leaves_out_is_assumed_and_said() -> None:
    settled, assumed = preprocessing_from(PreprocessingRecipe(), family="torchvision")
    assert settled == usual_preprocessing("torchvision")
    assert assumed[:2] == ("shorter side resized to 256", "centre crop 224 x 224")
    assert any("0.485" in text for text in assumed)

    given = PreprocessingRecipe(
        resize=40, crop=36, mean=(0, 0, 0), std=(1, 1, 1), color="bgr", interpolation="bicubic", reduced_jpeg=False
    )
    settled, assumed = preprocessing_from(given, family="torchvision")
    assert settled == Preprocessing(40, (36, 36), (0, 0, 0), (1, 1, 1), "bgr", "bicubic")
    assert assumed == ()


def test_jpegs_are_reduced_where_there_is_a_resize_and_nobody_forbids_it() -> None:
    settled, assumed = preprocessing_from(PreprocessingRecipe(), family="torchvision")
    assert settled.shorter_side == 256
    assert any("reduced_jpeg" in text for text in assumed)
    settled, assumed = preprocessing_from(PreprocessingRecipe(reduced_jpeg=False), family="torchvision")
    assert settled.shorter_side is None
    assert not any("reduced_jpeg" in text for text in assumed)
    settled, _ = preprocessing_from(PreprocessingRecipe(), family="custom")
    assert (settled.resize, settled.reduced_jpeg) == (None, False)
    # What artifacts of before say.
    before = {name: value for name, value in settled.to_dict().items() if name != "reduced_jpeg"}
    assert Preprocessing.from_dict({**before, "resize": 256}).shorter_side is None


def test_a_given_crop_or_resize_sets_the_other_in_proportion() -> None:
    settled, assumed = preprocessing_from(PreprocessingRecipe(crop=448), family="torchvision")
    assert (settled.resize, settled.crop) == (512, (448, 448))
    assert assumed[0] == "shorter side resized to 512"
    settled, _ = preprocessing_from(PreprocessingRecipe(resize=128), family="torchvision")
    assert (settled.resize, settled.crop) == (128, (112, 112))
    settled, _ = preprocessing_from(PreprocessingRecipe(crop=40), family="cifar")
    assert (settled.resize, settled.crop) == (40, (40, 40))
    settled, _ = preprocessing_from(PreprocessingRecipe(), family="torchvision", input_size=(64, 64))
    assert (settled.resize, settled.crop) == (73, (64, 64))


def test_preprocessing_stored_with_the_weights_comes_before_the_familys() -> None:
    stored = Preprocessing(36, (32, 32), (0.1, 0.1, 0.1), (0.2, 0.2, 0.2), color="bgr", reduced_jpeg=True)
    settled, assumed = preprocessing_from(PreprocessingRecipe(), family="cifar", stored=stored)
    assert (settled, assumed) == (stored, ())
    settled, assumed = preprocessing_from(PreprocessingRecipe(color="rgb"), family="cifar", stored=stored)
    assert settled.color == "rgb"
    assert settled.mean == stored.mean
    assert assumed == ()


def test_the_real_subset(data_root: Path) -> None:
    dataset = open_dataset(str(data_root / "cifar10-subset"))
    assert len(dataset.classes) == 10
    assert (len(dataset.training) + len(dataset.selection), len(dataset.gate)) == (4660, 846)
    assert len(dataset.selection) == 466
    assert dataset.notes == ()
    check_images(dataset.gate, Silent())
