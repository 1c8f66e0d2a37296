from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_artifact import write_tiny_artifact
from tiny_onnx import CLASSES, SIDE

from targets.device.model import golden
from targets.device.model.golden import FILE, check, read_golden, write_golden
from targets.device.model.manifest import Manifest
from targets.device.model.preprocess import normalize
from targets.device.open_session import open_session

COUNT = 12


class Answers:
    """A session that gives prepared logits."""

    def __init__(self, logits: NDArray[np.float32]) -> None:
        self._logits = logits

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._logits


@pytest.fixture
def artifact(tmp_path: Path) -> tuple[Path, Manifest, NDArray[np.float32]]:
    """A real int8 artifact with its golden images and their logits."""
    manifest = write_tiny_artifact(tmp_path, quantized=True)
    pixels = np.random.default_rng(3).integers(0, 256, (COUNT, SIDE, SIDE, 3)).astype(np.uint8)
    with open_session(tmp_path, manifest) as session:
        logits = session.infer(normalize(pixels, manifest.preprocessing))
    write_golden(tmp_path, pixels, logits)
    return tmp_path, manifest, logits


Made = tuple[Path, Manifest, NDArray[np.float32]]


def test_the_artifact_matches_itself(artifact: Made) -> None:
    folder, manifest, _ = artifact
    with open_session(folder, manifest) as session:
        result = check(session, folder, manifest)
    assert result.matched
    assert (result.images, result.agreement, result.max_difference) == (COUNT, 1.0, 0.0)
    assert "12 golden images match" in result.reason


def test_images_and_logits_are_kept_exactly(artifact: Made) -> None:
    folder, _, logits = artifact
    pixels, expected = read_golden(folder)
    assert pixels.shape == (COUNT, SIDE, SIDE, 3)
    np.testing.assert_array_equal(expected, logits)
    again = folder / "again"
    again.mkdir()
    write_golden(again, pixels, expected)
    assert (again / FILE).read_bytes() == (folder / FILE).read_bytes()


def test_small_differences_are_allowed_larger_ones_not(artifact: Made) -> None:
    folder, manifest, logits = artifact
    limit = manifest.tolerance * np.ptp(logits)
    assert check(Answers(logits + np.float32(limit / 2)), folder, manifest).matched
    result = check(Answers(logits + np.float32(limit * 2)), folder, manifest)
    assert not result.matched
    assert result.agreement == 1.0
    assert "do not match" in result.reason


def test_another_class_is_a_mismatch(artifact: Made) -> None:
    folder, manifest, logits = artifact
    result = check(Answers(np.roll(logits, 1, axis=1)), folder, manifest)
    assert not result.matched
    assert result.agreement == 0.0


def test_elsewhere_the_classes_decide(artifact: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, manifest, logits = artifact
    monkeypatch.setattr(golden, "instruction_set", lambda: "another")
    moved = logits * np.float32(1.01)
    result = check(Answers(moved), folder, manifest)
    assert result.matched
    assert "on another, 99.5% must agree, because it was built on" in result.reason
    moved[0] = -moved[0]
    assert not check(Answers(moved), folder, manifest).matched
    assert not check(Answers(logits * np.float32(1.01)), folder, replace(manifest, instruction_set="another")).matched


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(np.full((COUNT, CLASSES), np.nan, np.float32), id="not finite"),
        pytest.param(np.zeros((COUNT, CLASSES + 1), np.float32), id="too many classes"),
        pytest.param(np.zeros((1, CLASSES), np.float32), id="too few images"),
    ],
)
def test_answers_that_are_none(artifact: Made, answer: NDArray[np.float32]) -> None:
    folder, manifest, _ = artifact
    result = check(Answers(answer), folder, manifest)
    assert not result.matched
    assert "finite logits" in result.reason


def test_missing_or_damaged_golden_images_never_match(artifact: Made) -> None:
    folder, manifest, logits = artifact
    whole = (folder / FILE).read_bytes()
    array = folder / "array.npy"
    np.save(array, logits)
    for content in (None, b"", b"something else", array.read_bytes(), whole[: len(whole) // 2], whole[:-30]):
        if content is None:
            (folder / FILE).unlink()
        else:
            (folder / FILE).write_bytes(content)
        result = check(Answers(logits), folder, manifest)
        assert not result.matched
        assert "cannot be read" in result.reason


def test_golden_images_of_another_kind_never_match(artifact: Made) -> None:
    folder, manifest, logits = artifact
    np.savez(folder / FILE, pixels=np.zeros((2, SIDE, SIDE, 3), np.float32), logits=logits[:2])
    assert not check(Answers(logits), folder, manifest).matched
    np.savez(folder / FILE, pixels=np.zeros((0, SIDE, SIDE, 3), np.uint8), logits=logits[:0])
    assert not check(Answers(logits[:0]), folder, manifest).matched


@pytest.mark.parametrize(
    ("bits", "saturates", "here", "is_refused"),
    [
        pytest.param(8, True, "avx2", True, id="8-bit weights where sums saturate"),
        pytest.param(7, True, "avx2", False, id="7-bit weights never saturate"),
        pytest.param(8, False, "neon", False, id="sums of 32 bits"),
        pytest.param(8, True, "avx512_vnni", False, id="proven on this very kind"),
        pytest.param(None, True, "avx2", False, id="float"),
    ],
)
def test_a_cpu_that_would_saturate_is_refused_though_the_golden_images_match(
    artifact: Made, monkeypatch: pytest.MonkeyPatch, bits: int | None, saturates: bool, here: str, is_refused: bool
) -> None:
    folder, manifest, logits = artifact
    monkeypatch.setattr(golden, "instruction_set", lambda: here)
    monkeypatch.setattr(golden, "saturates_8bit", lambda: saturates)
    result = check(Answers(logits), folder, replace(manifest, weight_bits=bits, instruction_set="avx512_vnni"))
    assert result.matched is not is_refused
    if is_refused:
        assert "this CPU (avx2) sums int8 products in 16 bits" in result.reason
        assert "proven on avx512_vnni. Build it with --weight-bits 7" in result.reason
