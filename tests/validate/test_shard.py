"""The shard: what is written is what is read, on the device as here, and damage never passes unnoticed."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.artifacts import Checkpoint
from pipeline.data.batches import Batches
from pipeline.data.readers import Dataset, ImageSet, open_dataset
from pipeline.models.checkpoint import build_network, load_checkpoint
from pipeline.progress import Silent
from pipeline.training.evaluation import logits_of
from pipeline.validate.archive import npy_bytes, write_archive
from pipeline.validate.shard import pack_shard, pack_some, write_shard
from targets.device.files import SHARD
from targets.device.gate.shard import FACTS, Shard, ShardError, shard_sha256
from targets.device.model.image_files import decode
from targets.device.model.preprocess import Preprocessing, preprocess

PREPROCESSING = Preprocessing(resize=None, crop=(32, 32), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """The embedded digits with a gate of 40 images."""
    whole = open_dataset("digits")
    return replace(whole, gate=whole.gate.subset(range(40)))


def answers(
    checkpoint: Checkpoint, dataset: Dataset, preprocessing: Preprocessing = PREPROCESSING
) -> NDArray[np.float32]:
    return logits_of(build_network(checkpoint), Batches(dataset.gate, preprocessing))


@pytest.fixture
def shard(digits: Dataset, tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    write_shard(answers(tiny_checkpoint, digits), digits, PREPROCESSING, progress=Silent(), folder=tmp_path)
    return tmp_path / SHARD


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_what_is_written_is_read(shard: Path, digits: Dataset, tiny_checkpoint: Checkpoint) -> None:
    network = build_network(tiny_checkpoint)
    with Shard(shard) as read:
        assert len(read) == 40
        assert read.classes == digits.classes
        assert read.preprocessing == PREPROCESSING
        assert read.labels.tolist() == digits.gate.labels.tolist()
        for index in range(len(read)):
            assert read.encoded(index) == digits.gate.encoded(index)
            image = torch.from_numpy(preprocess(decode(read.encoded(index)), PREPROCESSING))
            with torch.inference_mode():
                expected = network(image[None])[0].numpy()
            np.testing.assert_allclose(read.logits[index], expected, rtol=1e-4, atol=1e-4)


def test_equal_inputs_give_equal_bytes(
    shard: Path, digits: Dataset, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    write_shard(answers(tiny_checkpoint, digits), digits, PREPROCESSING, progress=Silent(), folder=tmp_path / "again")
    assert (tmp_path / "again" / SHARD).read_bytes() == shard.read_bytes()


def test_the_hash_depends_on_everything(shard: Path, digits: Dataset, tmp_path: Path) -> None:
    with Shard(shard) as read:
        logits, sha256 = read.logits, read.sha256
    changed_logits = logits.copy()
    changed_logits[3, 3] += 1
    relabelled = digits.gate.relabelled([1, 0, *range(2, 10)])
    reordered = digits.gate.subset([1, 0, *range(2, 40)])
    classes = digits.classes
    hashes = {sha256}
    for number, (images, values, names, preprocessing) in enumerate(
        (
            (digits.gate, changed_logits, classes, PREPROCESSING),
            (relabelled, logits, classes, PREPROCESSING),
            (reordered, logits, classes, PREPROCESSING),
            (digits.gate, logits, ("zero", *classes[1:]), PREPROCESSING),
            (digits.gate, logits, classes, replace(PREPROCESSING, color="bgr")),
        )
    ):
        folder = tmp_path / str(number)
        pack_shard(images, values, classes=names, preprocessing=preprocessing, progress=Silent(), folder=folder)
        with Shard(folder / SHARD) as read:
            hashes.add(read.sha256)
    assert len(hashes) == 6


def test_original_bytes_are_kept_whatever_the_format(tmp_path: Path) -> None:
    files = []
    for index, kind in enumerate(("JPEG", "PNG", "BMP")):
        buffer = io.BytesIO()
        Image.new("RGB", (20 + index, 30), (200, 10 * index, 0)).save(buffer, kind)
        files.append(buffer.getvalue())
    images = ImageSet(
        read=files.__getitem__, digests=["a", "b", "c"], names=["x", "y", "z"], labels=np.array([0, 1, 0])
    )
    logits = np.zeros((3, 2), np.float32)
    pack_shard(images, logits, classes=("no", "yes"), preprocessing=PREPROCESSING, progress=Silent(), folder=tmp_path)
    with Shard(tmp_path / SHARD) as read:
        assert [read.encoded(index) for index in range(3)] == files
    assert {"images/0.jpg", "images/1.png", "images/2.bmp"} < set(members_of(tmp_path / SHARD))


def test_labels_and_logits_are_read_without_the_images(shard: Path, tmp_path: Path) -> None:
    members = members_of(shard)
    rewritten = tmp_path / "without.zip"
    write_archive(rewritten, ((name, data) for name, data in members.items() if not name.startswith("images/")))
    with Shard(rewritten) as read, Shard(shard) as whole:
        assert (read.logits == whole.logits).all()
        assert (read.labels == whole.labels).all()
        with pytest.raises(ShardError, match=r"it has no images/0\.png"):
            read.encoded(0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_shard_cut_short_is_refused(shard: Path, share: float) -> None:
    data = shard.read_bytes()
    shard.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ShardError, match="truncated or damaged"):
        Shard(shard)


def test_a_missing_shard_says_where_shards_come_from(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="deploy build"):
        Shard(tmp_path / "none.zip")


def test_any_flipped_byte_is_noticed(shard: Path) -> None:
    """Every 97th byte: where the contents are read back unchanged, only zip bookkeeping was hit."""
    data = shard.read_bytes()
    with Shard(shard) as read:
        facts = (read.labels.tobytes(), read.logits.tobytes(), read.classes, read.sha256)
        contents = [read.encoded(index) for index in range(len(read))]
    noticed = 0
    for position in range(0, len(data), 97):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        shard.write_bytes(damaged)
        try:
            with Shard(shard) as read:
                again = [read.encoded(index) for index in range(len(read))]
                assert (read.labels.tobytes(), read.logits.tobytes(), read.classes, read.sha256) == facts
                assert again == contents
        except ShardError:
            noticed += 1
    assert noticed > 0.7 * len(range(0, len(data), 97))


def with_facts(change: Callable[[dict[str, object]], object]) -> Callable[[Members], None]:
    """Change shard.json and give it the hash that belongs to it."""

    def act(members: Members) -> None:
        facts = json.loads(members[FACTS])
        change(facts)
        facts["sha256"] = shard_sha256(facts)
        members[FACTS] = json.dumps(facts).encode()

    return act


def other_labels(members: Members) -> None:
    members["labels.npy"] = npy_bytes(np.zeros(40, np.int64))


def labels_out_of_range(members: Members) -> None:
    members["labels.npy"] = npy_bytes(np.full(40, 10, np.int64))
    facts = json.loads(members[FACTS])
    facts["files"]["labels.npy"] = hashlib.sha256(members["labels.npy"]).hexdigest()
    facts["sha256"] = shard_sha256(facts)
    members[FACTS] = json.dumps(facts).encode()


def edited(members: Members) -> None:
    members[FACTS] = members[FACTS].replace(b'"color": "rgb"', b'"color": "bgr"')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_labels, r"labels\.npy does not match its hash in shard\.json"),
        (labels_out_of_range, "labels from 10 to 10 for 10 classes"),
        (edited, "does not match its own hash"),
        (lambda members: members.pop(FACTS), r"it has no shard\.json"),
        (lambda members: members.pop("logits.npy"), r"it has no logits\.npy"),
        (lambda members: members.update({FACTS: b"{"}), "is not valid JSON"),
        (lambda members: members.update({FACTS: b"[]"}), "is not a JSON object"),
        (with_facts(lambda facts: facts.update(schema=2)), "schema 2, but this version supports schema 1"),
        (with_facts(lambda facts: facts.pop("images")), "invalid or missing entry"),
        (with_facts(lambda facts: facts.update(images=[])), "0 images and 10 classes"),
        (with_facts(lambda facts: facts.update(preprocessing={})), "invalid or missing entry"),
        (with_facts(lambda facts: facts.update(classes=["a", "b"])), "2 classes"),
    ],
)
def test_what_does_not_fit_together_is_refused(shard: Path, damage: Callable[[Members], object], message: str) -> None:
    members = members_of(shard)
    damage(members)
    write_archive(shard, members.items())
    with pytest.raises(ShardError, match=message):
        Shard(shard)


def test_resnet20_reproduces_its_accuracy_to_the_image(data_root: Path, tmp_path: Path) -> None:
    """Through checkpoint, shard and the device's preprocessing: 776 of 846, as measured with its author's code."""
    dataset = open_dataset(str(data_root / "cifar10-subset"))
    folder = tmp_path / "checkpoint"
    source = data_root / "checkpoints" / "resnet20-12fca82f.th"
    load_checkpoint(source, factory=None, classes=dataset.classes, input_size=None, folder=folder)
    preprocessing = Preprocessing(resize=None, crop=None, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    write_shard(
        answers(Checkpoint(folder=folder), dataset, preprocessing),
        dataset,
        preprocessing,
        progress=Silent(),
        folder=tmp_path,
    )
    with Shard(tmp_path / SHARD) as read:
        assert (read.logits.argmax(axis=1) == read.labels).sum() == 776


def test_groups_travel_along_and_an_older_shard_has_none(shard: Path, digits: Dataset, tmp_path: Path) -> None:
    with Shard(shard) as read:
        assert read.groups == ()
        logits = read.logits
    gate = digits.gate
    grouped = ImageSet(
        read=gate.encoded,
        digests=gate.digests,
        names=gate.names,
        labels=gate.labels,
        groups=[f"size {index % 3}" for index in range(len(gate))],
    )
    pack_shard(
        grouped,
        logits,
        classes=digits.classes,
        preprocessing=PREPROCESSING,
        progress=Silent(),
        folder=tmp_path / "grouped",
    )
    with Shard(tmp_path / "grouped" / SHARD) as read:
        assert read.groups == grouped.groups
        encoded = {read.encoded(index): name for index, name in enumerate(read.groups)}
    with Shard(pack_some(tmp_path / "grouped" / SHARD, 15, tmp_path / "some")) as some:
        assert len(some) == len(some.groups) == 15
        assert all(encoded[some.encoded(index)] == name for index, name in enumerate(some.groups))


def test_groups_of_another_number_are_damage(shard: Path, tmp_path: Path) -> None:
    members = members_of(shard)
    facts = json.loads(members[FACTS]) | {"groups": ["a", "b"]}
    members[FACTS] = json.dumps(facts | {"sha256": shard_sha256(facts)}).encode()
    write_archive(tmp_path / "other.zip", members.items())
    with pytest.raises(ShardError, match="40 images, but groups of 2"):
        Shard(tmp_path / "other.zip")
