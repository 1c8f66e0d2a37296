"""WIDER FACE opened as it is downloaded, unpacked or not: what is cut, what is told, what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_wider_face import (
    annotations_of,
    jpeg,
    scattered_boxes,
    write_annotations,
    write_photo,
    write_tiny_wider_face,
    zipped_parts,
)

from pipeline.data import files as index_module
from pipeline.data.batches import Batches
from pipeline.data.files import FolderTree, Index
from pipeline.data.images import ImageSet, Source
from pipeline.data.readers import open_dataset
from pipeline.data.wider_face import dataset as wider_face
from pipeline.errors import DataError
from targets.device.model.image_files import decode
from targets.device.model.preprocess import Preprocessing

PLAIN = Preprocessing(resize=16, crop=(16, 16), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tiny_wider_face(tmp_path / "wider")


def opened(path: Path, index: Path | None = None) -> Source:
    return wider_face.open_wider_face(path, index=Index(index))


def fault(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        opened(path)
    return str(caught.value)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def reads_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files as they are read from now on."""
    names: list[str] = []
    read = FolderTree.read

    def counted(tree: FolderTree, name: str) -> bytes:
        names.append(name)
        return read(tree, name)

    monkeypatch.setattr(FolderTree, "read", counted)
    return names


def test_faces_of_every_size_and_as_many_backgrounds(root: Path) -> None:
    source = opened(root)
    assert (source.name, source.classes) == ("wider-face", ("background", "face"))
    assert np.bincount(source.training.labels).tolist() == [60, 60]
    assert np.bincount(source.gate.labels).tolist() == [40, 40]
    names, counts = np.unique(source.gate.groups, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {
        "background": 40,
        "face 8-15 px": 16,
        "face 16-31 px": 16,
        "face 32-63 px": 8,
    }
    assert source.training.is_personal
    assert "100 faces and 100 backgrounds of 20 photos" in source.notes[0]


def test_a_crop_is_its_square_of_the_photo(root: Path) -> None:
    images = opened(root).training
    for index in (0, 1, len(images) - 1):
        name, _, place = images.names[index].rstrip("]").partition("[")
        left, top, side = (int(part) for part in place.split(","))
        with (root / name).open("rb") as file:
            photo = np.asarray(decode(file.read()))
        expected = photo[top : top + side, left : left + side]
        assert (np.asarray(images.image(index)) == expected).all()
        assert (np.asarray(decode(images.encoded(index))) == expected).all()


def test_the_downloaded_zips_are_the_same_data(root: Path, tmp_path: Path) -> None:
    unpacked, packed = opened(root), opened(zipped_parts(root, tmp_path / "zips"))
    assert packed.training.fingerprint == unpacked.training.fingerprint
    assert packed.gate.fingerprint == unpacked.gate.fingerprint
    assert packed.gate.encoded(5) == unpacked.gate.encoded(5)


def test_no_photo_is_in_two_splits(root: Path) -> None:
    for seed in range(5):
        dataset = open_dataset(f"wider-face:{root}", seed=seed)
        photos = [
            {digest.partition("[")[0] for digest in images.digests}
            for images in (dataset.training, dataset.selection, dataset.gate)
        ]
        assert sum(map(len, photos)) == len(set.union(*photos)) == 20
        assert 5 <= len(dataset.selection) <= 25


def test_the_seed_moves_the_selection_and_never_the_gate(root: Path) -> None:
    first, other = (open_dataset(f"wider-face:{root}", seed=seed) for seed in (0, 1))
    assert first.selection.names != other.selection.names
    assert first.gate.fingerprint == other.gate.fingerprint
    assert sorted(first.training.digests + first.selection.digests) == sorted(
        other.training.digests + other.selection.digests
    )


def test_a_photo_is_cut_alike_wherever_it_lies(root: Path, tmp_path: Path) -> None:
    before = opened(root).training.fingerprint
    edit(annotations_of(root, "train"), "0--Event/0.jpg", "7--Other/name.jpg")
    write_photo(root, "train", "7--Other/name.jpg", (root / "WIDER_train/images/0--Event/0.jpg").read_bytes())
    (root / "WIDER_train/images/0--Event/0.jpg").unlink()
    assert opened(root.rename(tmp_path / "elsewhere")).training.fingerprint == before


def test_a_photo_of_the_gate_is_never_trained_on(root: Path) -> None:
    photos = {"5--Copy/copy.jpg": scattered_boxes(seed=1000), "0--Event/0.jpg": scattered_boxes(seed=0)}
    shutil.rmtree(root / "WIDER_train")
    write_photo(root, "train", "5--Copy/copy.jpg", (root / "WIDER_val/images/0--Event/0.jpg").read_bytes())
    write_photo(root, "train", "0--Event/0.jpg", jpeg(photos["0--Event/0.jpg"], seed=0))
    write_annotations(root, "train", photos)
    source = opened(root)
    assert not any("copy" in name for name in source.training.names)
    assert "1 photos of WIDER_train are also in WIDER_val" in source.notes[-1]


@pytest.mark.parametrize(("other_boxes", "left"), [(False, 12), (True, 11)])
def test_a_photo_that_lies_twice_in_a_split_counts_once_if_its_boxes_agree(
    root: Path, other_boxes: bool, left: int
) -> None:
    photos = {f"{number % 3}--Event/{number}.jpg": scattered_boxes(seed=number) for number in range(12)}
    photos["9--Copy/copy.jpg"] = [(1, 1, 20, 20)] if other_boxes else photos["0--Event/0.jpg"]
    write_photo(root, "train", "9--Copy/copy.jpg", (root / "WIDER_train/images/0--Event/0.jpg").read_bytes())
    write_annotations(root, "train", photos)
    source = opened(root)
    assert source.training.origins is not None
    assert len(np.unique(source.training.origins)) == left
    assert any("2 photos are left out" in note for note in source.notes) == other_boxes


def test_photos_without_faces_give_backgrounds_to_those_without_room(root: Path) -> None:
    shutil.rmtree(root / "WIDER_train")
    photos = {"0--A/full.jpg": [(0, 0, 100, 150), (100, 0, 100, 150)], "0--A/empty.jpg": []}
    for seed, (path, boxes) in enumerate(photos.items()):
        write_photo(root, "train", path, jpeg(boxes, seed=seed))
    write_annotations(root, "train", photos)
    images = opened(root).training
    assert [name.partition("[")[0].rpartition("/")[2] for name in images.names] == ["full.jpg"] * 2 + ["empty.jpg"] * 2
    assert images.labels.tolist() == [1, 1, 0, 0]


def test_unchanged_photos_are_not_read_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "SETTLED_NS", 0)
    first = opened(root, tmp_path / "index.json")
    names = reads_of(monkeypatch)
    again = opened(root, tmp_path / "index.json")
    assert again.training.fingerprint == first.training.fingerprint
    assert [name for name in names if name.endswith(".jpg")] == []
    write_photo(root, "train", "0--Event/0.jpg", jpeg(scattered_boxes(seed=0), seed=77))
    edit(annotations_of(root, "train"), "1--Event/1.jpg\n5\n", "1--Event/1.jpg\n6\n150 5 9 12 0 0 0 0 0 0 \n")
    changed = opened(root, tmp_path / "index.json")
    assert [name for name in names if name.endswith(".jpg")] == ["images/0--Event/0.jpg", "images/1--Event/1.jpg"]
    assert changed.training.fingerprint != first.training.fingerprint
    assert changed.gate.fingerprint == first.gate.fingerprint


def test_an_epoch_that_keeps_nothing_decodes_each_photo_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = reads_of(monkeypatch)
    images: ImageSet = opened(root).training
    names.clear()
    monkeypatch.setattr("pipeline.data.batches.PHOTOS_AT_A_TIME", 4)
    batches = Batches(images, PLAIN, batch_size=20, shuffle=True, cache_bytes=0)
    labels = np.concatenate([labels.numpy() for _, labels in batches.epoch(0)])
    assert sorted(labels.tolist()) == [0] * 60 + [1] * 60
    assert len(names) == len(set(names)) == 12


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("WIDER_val", "has neither WIDER_val/ nor WIDER_val.zip; it contains WIDER_train, wider_face_split"),
        ("wider_face_split", "has neither wider_face_split/ nor"),
        ("wider_face_split/wider_face_val_bbx_gt.txt", "has no wider_face_val_bbx_gt.txt"),
    ],
)
def test_a_missing_part_is_named(root: Path, part: str, message: str) -> None:
    (root / part).rename(root.parent / "away")
    assert message in fault(root)


def test_a_missing_photo_is_named_with_its_line(root: Path) -> None:
    (root / "WIDER_train/images/1--Event/1.jpg").unlink()
    message = fault(root)
    assert "lists 1 photos that" in message
    assert "line 8: 1--Event/1.jpg" in message


def test_a_surplus_photo_is_named(root: Path) -> None:
    write_photo(root, "val", "60--Event/stray.jpg", jpeg([], seed=5))
    message = fault(root)
    assert "has 1 files that are not in" in message
    assert "images/60--Event/stray.jpg" in message


def test_photos_that_cannot_be_used_are_named(root: Path) -> None:
    write_photo(root, "train", "1--Event/1.jpg", b"")
    write_photo(root, "train", "2--Event/2.jpg", b"GIF89a")
    message = fault(root)
    assert "2 photos cannot be used" in message
    assert "images/1--Event/1.jpg: the file is empty" in message
    assert "images/2--Event/2.jpg: it is not a JPEG or PNG" in message


def test_a_photo_that_is_cut_short_is_named_when_it_is_decoded(root: Path) -> None:
    whole = (root / "WIDER_train/images/0--Event/0.jpg").read_bytes()
    write_photo(root, "train", "0--Event/0.jpg", whole[:-600])
    images = opened(root).training
    with pytest.raises(DataError, match=r"WIDER_train/images/0--Event/0\.jpg\[.*damaged"):
        images.encoded(0)


def test_a_set_without_a_face_is_refused(root: Path) -> None:
    for split in ("train", "val"):
        paths = [path.relative_to(root / f"WIDER_{split}/images") for path in root.glob(f"WIDER_{split}/images/*/*")]
        write_annotations(root, split, {path.as_posix(): [] for path in paths})
    assert "WIDER_train has no face of 8 pixels or more" in fault(root)


def test_no_folder_is_no_data_set(tmp_path: Path) -> None:
    assert "does not exist" in fault(tmp_path / "nowhere")


def test_the_real_subset(data_root: Path) -> None:
    root = data_root / "wider-face-subset"
    if not root.is_dir():
        pytest.skip(f"no WIDER FACE subset at {root} (EDGE_DEPLOY_DATA)")
    dataset = open_dataset(f"wider-face:{root}")
    assert np.bincount(dataset.gate.labels).tolist() == [359, 359]
    assert len(dataset.training) + len(dataset.selection) == 3775
    assert 300 < len(dataset.selection) < 450
    for images in (dataset.training, dataset.selection):
        assert abs(float(images.labels.mean()) - 0.5) < 0.05
