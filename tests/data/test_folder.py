"""Image folders and zips, sound and broken in the ways people's folders are."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import files as index_module
from pipeline.data.files import Index
from pipeline.data.folder import open_folder
from pipeline.data.images import Source
from pipeline.errors import DataError

CLASSES = ("ant", "bee", "cow")


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes with four training and two validation images each, every one different."""
    root, seed = tmp_path / "animals", 0
    for split, count in (("train", 4), ("val", 2)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                seed += 1
                (root / split / name / f"{number}.png").write_bytes(png(seed))
    return root


def zipped(folder: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, prefix + path.relative_to(folder).as_posix())
    return target


def opened(path: Path) -> Source:
    return open_folder(path, index=Index(None))


def fault(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        opened(path)
    return str(caught.value)


def test_classes_labels_and_bytes(folder: Path) -> None:
    source = opened(folder)
    assert source.name == "animals"
    assert source.classes == CLASSES
    assert source.training.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert source.gate.names[2] == "val/bee/0.png"
    assert source.gate.encoded(2) == (folder / "val" / "bee" / "0.png").read_bytes()
    assert source.notes == ()


@pytest.mark.parametrize("prefix", ["", "top/", "animals-v2/"])
def test_a_zip_is_the_same_data(folder: Path, tmp_path: Path, prefix: str) -> None:
    unpacked, packed = opened(folder), opened(zipped(folder, tmp_path / "animals.zip", prefix))
    assert packed.name == "animals"
    assert packed.classes == unpacked.classes
    assert packed.training.fingerprint == unpacked.training.fingerprint
    assert packed.gate.encoded(5) == unpacked.gate.encoded(5)


@pytest.mark.parametrize("prefix", ["", "top\\"])
def test_a_zip_of_an_old_windows_tool_is_the_same_data(folder: Path, tmp_path: Path, prefix: str) -> None:
    with zipfile.ZipFile(tmp_path / "animals.zip", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            info = zipfile.ZipInfo("x")
            info.filename = prefix + str(path.relative_to(folder)).replace("/", "\\")
            archive.writestr(info, path.read_bytes())
    unpacked, packed = opened(folder), opened(tmp_path / "animals.zip")
    assert packed.training.fingerprint == unpacked.training.fingerprint
    assert packed.gate.names == unpacked.gate.names
    assert packed.gate.encoded(5) == unpacked.gate.encoded(5)


def test_a_zip_whose_top_folder_is_train_keeps_it(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "half.zip", "w") as archive:
        archive.write(folder / "train" / "ant" / "0.png", "train/ant/0.png")
    assert "has no folder val (or test); it contains train/" in fault(tmp_path / "half.zip")


def test_what_macos_and_editors_leave_behind_is_ignored(folder: Path, tmp_path: Path) -> None:
    before = opened(folder)
    for name in (".DS_Store", "train/.DS_Store", "train/ant/._0.png", "val/bee/Thumbs.db", "__MACOSX/train/x/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    for path in (folder, zipped(folder, tmp_path / "mac.zip", "animals/")):
        after = opened(path)
        assert after.notes == ()
        assert after.training.fingerprint == before.training.fingerprint


def test_extensions_in_any_case_and_images_in_deeper_folders(folder: Path) -> None:
    for name in ("a.PNG", "b.Jpeg", "deep/er/c.png"):
        (folder / "train" / "ant" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "train" / "ant" / name).write_bytes(png(len(name)))
    assert int((opened(folder).training.labels == 0).sum()) == 7


def test_files_that_are_no_images_are_named_in_a_note(folder: Path) -> None:
    (folder / "train" / "ant" / "labels.txt").write_text("x")
    (folder / "val" / "loose.png").write_bytes(png(1))
    (folder / "README.md").write_text("outside of train and val nothing is expected")
    (note,) = opened(folder).notes
    assert note.startswith("2 files are not images in a class folder and are ignored:")
    assert "train/ant/labels.txt" in note
    assert "val/loose.png" in note


@pytest.mark.parametrize("name", ["test", "valid", "validation"])
def test_other_names_of_the_gate_are_taken_and_said(folder: Path, name: str) -> None:
    (folder / "val").rename(folder / name)
    source = opened(folder)
    assert len(source.gate) == 6
    assert source.notes == (f"there is no folder val: the gate's images are taken from {name}.",)


def test_val_wins_over_test_and_that_is_said(folder: Path) -> None:
    (folder / "test").mkdir()
    assert opened(folder).notes == ("the gate's images are taken from val; test is not used.",)


def test_missing_folders(folder: Path, tmp_path: Path) -> None:
    assert "does not exist" in fault(tmp_path / "nothing")
    assert "has no folder train; it contains train/, val/" not in fault(folder / "train")
    assert "has no folder train; it contains ant/, bee/, cow/" in fault(folder / "train")
    (tmp_path / "empty").mkdir()
    assert "it contains no folder" in fault(tmp_path / "empty")


def test_a_file_that_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"PK\3\4 cut short")
    assert "neither a folder nor a valid zip file" in fault(tmp_path / "data.zip")


def test_class_folders_that_differ_are_named(folder: Path) -> None:
    (folder / "val" / "cow").rename(folder / "val" / "cows")
    message = fault(folder)
    assert "train/cow" not in message
    assert "cow: only in train" in message
    assert "cows: only in val" in message


def test_empty_classes_are_named(folder: Path) -> None:
    for path in (folder / "val" / "bee").iterdir():
        path.unlink()
    assert "class folders without an image:\n  val/bee" in fault(folder)


def test_images_without_class_folders(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").write_bytes(png(0))
    assert "train has no class folders (1 files are directly in it)" in fault(tmp_path)


def test_one_class_is_not_enough(folder: Path) -> None:
    for split in ("train", "val"):
        for name in ("bee", "cow"):
            for path in (folder / split / name).iterdir():
                path.unlink()
            (folder / split / name).rmdir()
    assert "only one class (ant)" in fault(folder)


def test_empty_files_are_named_and_counted(folder: Path) -> None:
    names = [f"train/{name}/{number}.png" for name in CLASSES for number in range(3)]
    for name in names:
        (folder / name).write_bytes(b"")
    message = fault(folder)
    assert "9 image files are empty (0 bytes):" in message
    assert all(name in message for name in names[:8])
    assert "... and 1 more" in message


def test_a_broken_link_is_named(folder: Path) -> None:
    (folder / "train" / "ant" / "gone.png").symlink_to(folder / "nowhere.png")
    assert "train/ant/gone.png cannot be read: No such file" in fault(folder)


def test_links_are_followed_but_not_in_circles(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "ant").rename(tmp_path / "elsewhere")
    (folder / "train" / "ant").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder / "train")
    assert int((opened(folder).training.labels == 0).sum()) >= 4


def test_damage_inside_a_zip_names_the_file(folder: Path, tmp_path: Path) -> None:
    path = zipped(folder, tmp_path / "animals.zip")
    data = bytearray(path.read_bytes())
    at = data.index((folder / "train" / "cow" / "3.png").read_bytes())
    data[at + 40] ^= 0xFF
    path.write_bytes(data)
    message = fault(path)
    assert "1 image files cannot be read" in message
    assert "train/cow/3.png cannot be read: Bad CRC-32" in message


def test_an_encrypted_zip_says_so(folder: Path, tmp_path: Path) -> None:
    path = zipped(folder, tmp_path / "secret.zip")
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the bit "encrypted" in every header
        at = data.find(signature)
        while at >= 0:
            data[at + offset] |= 1
            at = data.find(signature, at + 4)
    path.write_bytes(data)
    message = fault(path)
    assert "encrypted" in message
    assert "... and 10 more" in message


def test_numbered_classes_in_alphabetical_order_are_pointed_out(folder: Path) -> None:
    for split in ("train", "val"):
        for old, new in zip(CLASSES, ("1", "2", "10"), strict=True):
            (folder / split / old).rename(folder / split / new)
    source = opened(folder)
    assert source.classes == ("1", "10", "2")
    assert "alphabetically (1, 10, 2, ...)" in source.notes[0]


def test_names_that_are_not_utf8_can_be_printed(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (folder / "train" / "ant" / name).write_bytes(b"")
    assert fault(folder).encode()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files made a moment ago count as old enough to be remembered."""
    monkeypatch.setattr(index_module, "SETTLED_NS", 0)


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_not_read_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "index.json"
    before = open_folder(folder, index=Index(index))
    reads: list[str] = []
    original = Path.read_bytes

    def counted(path: Path) -> bytes:
        reads.append(path.name)
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    again = open_folder(folder, index=Index(index))
    assert reads == []
    assert again.training.fingerprint == before.training.fingerprint

    (folder / "train" / "bee" / "1.png").write_bytes(png(99))
    changed = open_folder(folder, index=Index(index))
    assert reads == ["1.png"]
    assert changed.training.fingerprint != before.training.fingerprint
    assert changed.gate.fingerprint == before.gate.fingerprint


@pytest.mark.usefixtures("settled")
def test_same_size_and_time_do_not_hide_a_change(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    before = open_folder(folder, index=Index(index))
    path = folder / "train" / "ant" / "0.png"
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert open_folder(folder, index=Index(index)).training.fingerprint != before.training.fingerprint


def test_files_changed_a_moment_ago_are_not_remembered(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    open_folder(folder, index=Index(index))
    assert "0.png" not in index.read_text()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("text", ["", "{", '{"schema": 1}', "[]", '{"schema": 99, "roots": {}}'])
def test_a_damaged_index_is_made_anew(folder: Path, tmp_path: Path, text: str) -> None:
    index = tmp_path / "index.json"
    before = open_folder(folder, index=Index(index))
    index.write_text(text)
    assert open_folder(folder, index=Index(index)).training.fingerprint == before.training.fingerprint
    assert "train/cow/3.png" in index.read_text()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["index.json"]


@pytest.mark.usefixtures("settled")
def test_unreadable_files_are_not_remembered(folder: Path, tmp_path: Path) -> None:
    path, index = zipped(folder, tmp_path / "animals.zip"), tmp_path / "index.json"
    data = bytearray(path.read_bytes())
    data[data.index((folder / "val" / "ant" / "0.png").read_bytes()) + 40] ^= 0xFF
    path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(DataError, match="Bad CRC-32"):
            open_folder(path, index=Index(index))


@pytest.mark.usefixtures("settled")
def test_the_index_serves_several_data_sets_and_forgets_gone_ones(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    packed = zipped(folder, tmp_path / "animals.zip")
    open_folder(folder, index=Index(index))
    open_folder(packed, index=Index(index))
    assert str(folder) in index.read_text()
    packed.unlink()
    (folder / "val" / "ant" / "1.png").unlink()
    open_folder(folder, index=Index(index))
    assert str(packed) not in index.read_text()
    assert "val/ant/1.png" not in index.read_text()
