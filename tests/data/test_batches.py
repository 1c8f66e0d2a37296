"""Batches: every image once, the same ones for the same seed, augmented image by image."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.data.batches import Batches, augmented, photo_by_photo
from pipeline.data.images import ImageSet, Kind
from pipeline.errors import DataError
from targets.device.model.image_files import decode
from targets.device.model.preprocess import Preprocessing, preprocess

PLAIN = Preprocessing(resize=None, crop=(8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def image_set(arrays: Sequence[NDArray[np.uint8]], mirrors: bool = True) -> ImageSet:
    def png(index: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(arrays[index]).save(file, "PNG")
        return file.getvalue()

    return ImageSet(
        read=png,
        digests=[str(index) for index in range(len(arrays))],
        names=[f"image {index}" for index in range(len(arrays))],
        labels=np.arange(len(arrays), dtype=np.int64),
        kind=Kind(mirrors=mirrors),
    )


@pytest.fixture
def images() -> ImageSet:
    generator = np.random.default_rng(0)
    return image_set([generator.integers(1, 256, (8, 8, 3), dtype=np.uint8) for _ in range(23)])


def collect(batches: Batches, number: int = 0) -> tuple[Tensor, Tensor]:
    pairs = list(batches.epoch(number))
    return torch.cat([images for images, _ in pairs]), torch.cat([labels for _, labels in pairs])


def test_in_order_and_preprocessed_as_on_the_device(images: ImageSet) -> None:
    got, labels = collect(Batches(images, PLAIN, batch_size=10))
    assert labels.tolist() == list(range(23))
    expected = np.stack([preprocess(decode(images.encoded(index)), PLAIN) for index in range(23)])
    assert (got.numpy() == expected).all()


@pytest.mark.parametrize("batch_size", [1, 5, 11, 22, 23, 24, 128])
def test_no_batch_is_larger_than_asked_or_tiny(images: ImageSet, batch_size: int) -> None:
    batches = Batches(images, PLAIN, batch_size=batch_size, shuffle=True)
    sizes = [len(labels) for _, labels in batches.epoch(0)]
    assert len(sizes) == len(batches)
    assert sum(sizes) == 23
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_every_image_once_in_an_order_of_seed_and_epoch(images: ImageSet) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = Batches(images, PLAIN, batch_size=7, seed=seed, shuffle=True)
        return [int(label) for label in collect(batches, epoch)[1]]

    assert sorted(order(0, 0)) == list(range(23))
    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_a_later_epoch_does_not_depend_on_the_earlier_ones(images: ImageSet) -> None:
    whole = Batches(images, PLAIN, batch_size=7, seed=3, shuffle=True, augment=True)
    for epoch in range(3):
        list(whole.epoch(epoch))
    resumed = Batches(images, PLAIN, batch_size=7, seed=3, shuffle=True, augment=True)
    assert torch.equal(collect(whole, 5)[0], collect(resumed, 5)[0])


@pytest.mark.parametrize("cache_bytes", [2**30, 0])
@pytest.mark.parametrize("world", [2, 3])
def test_shares_are_the_batches_of_one_process_bit_for_bit(images: ImageSet, world: int, cache_bytes: int) -> None:
    whole = Batches(images, PLAIN, batch_size=8, seed=1, shuffle=True, augment=True, cache_bytes=cache_bytes)
    shares = [whole.shared(rank, world).epoch(1) for rank in range(world)]
    for number, ((expected, labels), parts) in enumerate(zip(whole.epoch(1), zip(*shares, strict=True), strict=True)):
        assert torch.equal(torch.cat([part for part, _ in parts]), expected)
        assert torch.equal(torch.cat([part for _, part in parts]), labels)
        assert whole.size(number) == len(labels)


@pytest.mark.parametrize("augment", [False, True])
def test_without_room_for_a_cache_the_batches_are_the_same(images: ImageSet, augment: bool) -> None:
    roomy = Batches(images, PLAIN, batch_size=6, seed=1, shuffle=True, augment=augment)
    tight = Batches(images, PLAIN, batch_size=6, seed=1, shuffle=True, augment=augment, cache_bytes=100)
    for (left, left_labels), (right, right_labels) in zip(roomy.epoch(2), tight.epoch(2), strict=True):
        assert torch.equal(left, right)
        assert torch.equal(left_labels, right_labels)


def test_decoded_once_where_it_fits() -> None:
    reads: list[int] = []
    inner = image_set([np.full((8, 8, 3), 7, dtype=np.uint8)] * 4)

    def counted(index: int) -> bytes:
        reads.append(index)
        return inner.encoded(index)

    images = ImageSet(read=counted, digests=inner.digests, names=inner.names, labels=inner.labels)
    kept = Batches(images, PLAIN)
    list(kept.epoch(0))
    read_once = len(reads)
    list(kept.epoch(1))
    assert len(reads) == read_once <= 5


def test_every_image_is_shifted_and_mirrored_on_its_own() -> None:
    """All images alike: what differs afterwards was drawn per image."""
    image = np.random.default_rng(1).integers(1, 256, (32, 32, 3), dtype=np.uint8)
    many = augmented(np.stack([image] * 400), np.random.default_rng(0), mirror=True)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    possible = {
        (top, left, turned): view[:, ::-1] if turned else view
        for top in range(9)
        for left in range(9)
        for turned in (False, True)
        for view in [padded[top : top + 32, left : left + 32]]
    }
    by_bytes = {view.tobytes(): key for key, view in possible.items()}
    drawn = [by_bytes[result.tobytes()] for result in many]  # each one is exactly one of the 162 views
    assert len(set(drawn)) > 130
    assert {top for top, _, _ in drawn} == {left for _, left, _ in drawn} == set(range(9))
    assert 150 < sum(turned for _, _, turned in drawn) < 250


def test_the_border_is_black_before_normalization() -> None:
    white = image_set([np.full((32, 32, 3), 255, dtype=np.uint8)] * 64)
    how = Preprocessing(resize=None, crop=(32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    images, _ = collect(Batches(white, how, augment=True))
    black = [-0.5 / 0.2, -0.4 / 0.3, -0.3 / 0.4]
    for channel in range(3):
        assert images[:, channel].min().item() == pytest.approx(black[channel])
        assert len(set(images[:, channel].flatten().tolist())) == 2


def test_what_must_not_be_mirrored_is_not() -> None:
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[:, :16] = 200
    shown, _ = collect(Batches(image_set([image] * 64, mirrors=False), PLAIN_32, augment=True))
    assert (shown[:, 0, 16, 4] > shown[:, 0, 16, -5]).all()


PLAIN_32 = Preprocessing(resize=None, crop=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))


def test_shifts_are_in_proportion_to_the_size() -> None:
    wide = augmented(np.full((200, 64, 16, 3), 9, dtype=np.uint8), np.random.default_rng(0), mirror=False)
    black_rows = (wide[:, :, 8, 0] == 0).sum(axis=1)
    black_columns = (wide[:, 32, :, 0] == 0).sum(axis=1)
    assert black_rows.max() == 8
    assert black_columns.max() == 2


@pytest.mark.parametrize("cache_bytes", [2**30, 0])
def test_a_bad_image_is_named_not_a_crashed_worker(images: ImageSet, cache_bytes: int) -> None:
    def read(index: int) -> bytes:
        return images.encoded(index)[: 60 if index == 17 else None]

    broken = ImageSet(read=read, digests=images.digests, names=images.names, labels=images.labels)
    with pytest.raises(DataError, match="image 17: the PNG file is"):
        collect(Batches(broken, PLAIN, batch_size=4, cache_bytes=cache_bytes))


@pytest.mark.parametrize("cache_bytes", [2**30, 0])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_without_a_crop_images_must_be_of_one_size(cache_bytes: int, batch_size: int) -> None:
    images = image_set([np.zeros((8, 8, 3), dtype=np.uint8)] * 3 + [np.zeros((8, 9, 3), dtype=np.uint8)])
    whole = Preprocessing(resize=None, crop=None, mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(DataError, match="image 3 is 9 x 8, image 0 is 8 x 8 pixels: give a crop"):
        collect(Batches(images, whole, batch_size=batch_size, cache_bytes=cache_bytes))


def test_no_images_no_batches(images: ImageSet) -> None:
    assert list(Batches(images.subset([]), PLAIN).epoch(0)) == []


def test_parts_of_a_photo_stay_near_each_other_and_are_mixed_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.batches.PHOTOS_AT_A_TIME", 5)
    generator = np.random.default_rng(0)
    origins = np.repeat(np.arange(40), 10)
    order = photo_by_photo(generator.permutation(400), origins, generator)
    assert sorted(order.tolist()) == list(range(400))
    windows = origins[order].reshape(8, 50)
    assert all(len(set(window)) == 5 for window in windows.tolist())
    assert sum(map(len, map(set, windows.tolist()))) == 40
    assert all(len(set(window[:10])) > 2 for window in windows.tolist())
