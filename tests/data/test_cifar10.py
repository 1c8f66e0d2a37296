"""CIFAR-10's python batches, written here the way the authors' and newer Pythons write them."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.data import files as index_module
from pipeline.data.cifar10 import FILES, open_cifar10
from pipeline.data.files import Index
from pipeline.data.readers import open_dataset
from pipeline.errors import DataError
from targets.device.model.image_files import decode

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COUNT = 20


def pixels_of(name: str, count: int = COUNT) -> NDArray[np.uint8]:
    return np.random.default_rng(list(name.encode())).integers(0, 256, (count, 3072), dtype=np.uint8)


def content(name: str) -> dict[bytes, object]:
    if name == "batches.meta":
        return {b"label_names": [text.encode() for text in NAMES], b"num_vis": 3072}
    return {
        b"data": pixels_of(name),
        b"labels": [index % 10 for index in range(COUNT)],
        b"batch_label": name.encode(),
    }


def write(folder: Path, protocol: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).write_bytes(pickle.dumps(content(name), protocol=protocol))
    return folder


def archive_of(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w:gz") as archive:
        for name in FILES:
            archive.add(folder / name, f"cifar-10-batches-py/{name}")
    return target


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    source = open_cifar10(write(tmp_path, protocol), index=Index(None))
    assert source.classes == tuple(NAMES)
    assert (len(source.training), len(source.gate)) == (5 * COUNT, COUNT)
    assert source.training.labels[:11].tolist() == [*range(10), 0]
    image = np.asarray(decode(source.training.encoded(COUNT + 3)))
    assert (image == pixels_of("data_batch_2")[3].reshape(3, 32, 32).transpose(1, 2, 0)).all()
    image = np.asarray(decode(source.gate.encoded(7)))
    assert (image == pixels_of("test_batch")[7].reshape(3, 32, 32).transpose(1, 2, 0)).all()


def test_python_2_pickles(tmp_path: Path) -> None:
    """Python 2 wrote `str` where bytes are meant and numpy under its old name."""
    folder = write(tmp_path)
    for name in FILES:
        data = pickle.dumps(content(name), protocol=0, fix_imports=True)
        (folder / name).write_bytes(data.replace(b"numpy._core", b"numpy.core"))
    assert len(open_cifar10(folder, index=Index(None)).gate) == COUNT


def test_the_archive_and_the_folder_are_the_same_data(tmp_path: Path) -> None:
    folder = write(tmp_path / "cifar-10-batches-py")
    archive = archive_of(folder, tmp_path / "cifar-10-python.tar.gz")
    parts = [open_cifar10(path, index=Index(None)) for path in (folder, tmp_path, archive)]
    assert len({part.training.fingerprint for part in parts}) == 1
    assert len({part.gate.encoded(3) for part in parts}) == 1


def test_opened_by_its_name(tmp_path: Path) -> None:
    dataset = open_dataset(f"cifar10:{write(tmp_path)}")
    assert (len(dataset.training), len(dataset.selection), len(dataset.gate)) == (90, 10, 20)
    assert dataset.name == "cifar10"


def test_an_unchanged_archive_is_not_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "SETTLED_NS", 0)
    archive = archive_of(write(tmp_path / "x"), tmp_path / "cifar.tar.gz")
    index = Index(tmp_path / "index.json")
    before = open_cifar10(archive, index=index)
    monkeypatch.setattr(tarfile, "open", None)  # a second look into the archive would fail
    again = open_cifar10(archive, index=index)
    assert again.training.fingerprint == before.training.fingerprint


class Command:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch attacked",)


def test_code_in_a_batch_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path)
    monkeypatch.chdir(tmp_path)
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": Command()}))
    with pytest.raises(DataError, match=r"data_batch_3 .*it tries to run posix.system"):
        open_cifar10(folder, index=Index(None))
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({b"data": pixels_of("a")[:, :100]}, "no uint8 array `data` of N x 3072"),
        ({b"data": [1, 2]}, "no uint8 array `data`"),
        ({b"labels": [0, 1]}, "one label for each of its 20 images"),
        ({b"labels": [11] * COUNT}, r"labels that are not 0..9, such as 11"),
        ({b"fine_labels": [1]}, "CIFAR-100"),
    ],
)
def test_wrong_contents(tmp_path: Path, change: dict[bytes, object], reason: str) -> None:
    folder = write(tmp_path)
    (folder / "test_batch").write_bytes(pickle.dumps({**content("test_batch"), **change}, protocol=2))
    with pytest.raises(DataError, match=reason):
        open_cifar10(folder, index=Index(None))


@pytest.mark.parametrize("data", [b"", b"garbage", pickle.dumps([1]), pickle.dumps(content("test_batch"))[:5000]])
def test_damaged_batches(tmp_path: Path, data: bytes) -> None:
    folder = write(tmp_path)
    (folder / "test_batch").write_bytes(data)
    with pytest.raises(DataError, match=r"test_batch (is damaged|contains a list)"):
        open_cifar10(folder, index=Index(None))


def test_bits_flipped_at_random_never_crash(tmp_path: Path) -> None:
    import random

    folder, chance = write(tmp_path), random.Random(1)
    good = (folder / "batches.meta").read_bytes()
    for _ in range(100):
        data = bytearray(good)
        data[chance.randrange(len(data))] = chance.randrange(256)
        (folder / "batches.meta").write_bytes(data)
        try:
            open_cifar10(folder, index=Index(None))
        except DataError:
            continue


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "data_batch_4").unlink()
    with pytest.raises(DataError, match="lacks data_batch_4"):
        open_cifar10(folder, index=Index(None))
    with pytest.raises(DataError, match="does not exist"):
        open_cifar10(tmp_path / "nowhere", index=Index(None))


def test_broken_archives(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="neither a folder nor a valid tar archive"):
        open_cifar10(tmp_path / "a.tar.gz", index=Index(None))
    whole = archive_of(write(tmp_path / "x"), tmp_path / "b.tar.gz").read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"valid tar archive|lacks"):
        open_cifar10(tmp_path / "b.tar.gz", index=Index(None))
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("notes.txt"), io.BytesIO())
    with pytest.raises(DataError, match="lacks data_batch_1"):
        open_cifar10(tmp_path / "c.tar.gz", index=Index(None))
