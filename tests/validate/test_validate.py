"""The gate's verdicts, every figure of the report counted again by hand, and what must not be judged together."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.artifacts import AccuracyReport, Place, Verdict
from pipeline.data.readers import open_dataset
from pipeline.errors import CompileError, DataError
from pipeline.progress import Silent
from pipeline.validate.judge import Origin, Terms, accuracy_of, judge, judge_predictions
from pipeline.validate.predictions import Predictions, read_predictions, write_predictions
from pipeline.validate.shard import pack_shard
from targets.device.files import PREDICTIONS, SHARD
from targets.device.gate.shard import Shard
from targets.device.gate.tango import drop_bounds, drop_interval
from targets.device.model.manifest import Manifest
from targets.device.model.preprocess import Preprocessing

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]
ORIGIN = Origin(
    target="cpu",
    place=Place.HOST,
    shard_sha256="5" * 64,
    artifact_sha256="a" * 64,
    instruction_set="avx2",
    runtime="onnxruntime 1.22.0",
)


def classes_of(count: int) -> tuple[str, ...]:
    return tuple(f"class{index}" for index in range(count))


def answers(predicted: Labels, classes: int) -> Logits:
    """Logits whose largest one is at `predicted`."""
    logits = np.random.default_rng(0).random((len(predicted), classes)).astype(np.float32)
    logits[np.arange(len(predicted)), predicted] += 2
    return logits


def pair(
    images: int, *, lost: int, won: int, both_wrong: int = 20, classes: int = 10
) -> tuple[Labels, Logits, Logits]:
    """Labels and both models' logits with just these numbers of lost and won images."""
    labels = np.arange(images) % classes
    wrong = (labels + 1) % classes
    float_predicted, predicted = labels.copy(), labels.copy()
    predicted[:lost] = wrong[:lost]
    float_predicted[lost : lost + won] = wrong[lost : lost + won]
    rest = slice(lost + won, lost + won + both_wrong)
    float_predicted[rest] = predicted[rest] = wrong[rest]
    return labels, answers(float_predicted, classes), answers(predicted, classes)


def judged(images: int, *, lost: int, won: int, max_drop: float = 1.0) -> AccuracyReport:
    labels, float_logits, logits = pair(images, lost=lost, won=won)
    return judge(
        labels,
        float_logits,
        logits,
        classes=classes_of(10),
        terms=Terms(max_drop=max_drop, gate_looks=2),
        origin=ORIGIN,
    )


@pytest.mark.parametrize(
    ("images", "lost", "won", "max_drop", "verdict"),
    [
        (268, 0, 0, 1.0, Verdict.PASS),
        (267, 0, 0, 1.0, Verdict.UNDECIDED),
        (1000, 5, 5, 1.0, Verdict.PASS),
        (1000, 14, 12, 1.0, Verdict.UNDECIDED),
        (1000, 0, 30, 0.0, Verdict.PASS),
        (1000, 0, 0, 0.0, Verdict.UNDECIDED),
        (1000, 40, 2, 1.0, Verdict.FAIL),
        (1000, 40, 2, 5.0, Verdict.PASS),
        (50, 1, 0, 1.0, Verdict.UNDECIDED),
        (50, 20, 0, 1.0, Verdict.FAIL),
        (50, 1, 0, 100.0, Verdict.PASS),
    ],
)
def test_verdict(images: int, lost: int, won: int, max_drop: float, verdict: Verdict) -> None:
    report = judged(images, lost=lost, won=won, max_drop=max_drop)
    assert report.verdict is verdict
    assert bool(report.advice) is (verdict is Verdict.UNDECIDED)


def test_the_verdict_is_where_the_bounds_are() -> None:
    """Over many tables: pass if the upper bound is within the margin, fail if the lower one is beyond it."""
    seen = set()
    for lost in range(0, 60, 4):
        for won in range(0, 24, 4):
            report = judged(500, lost=lost, won=won, max_drop=2.0)
            lower, upper = drop_bounds(lost, won, 500)
            wanted = Verdict.PASS if upper <= 0.02 else Verdict.FAIL if lower > 0.02 else Verdict.UNDECIDED
            assert report.verdict is wanted
            assert report.drop_bounds_points == (100 * lower, 100 * upper)
            seen.add(wanted)
    assert seen == set(Verdict)


def test_figures() -> None:
    report = judged(846, lost=12, won=5)
    assert (report.images, report.lost, report.won) == (846, 12, 5)
    assert report.float_top1 == (846 - 5 - 20) / 846
    assert report.artifact_top1 == (846 - 12 - 20) / 846
    assert report.drop_points == pytest.approx(700 / 846)
    low, high = drop_interval(12, 5, 846)
    assert report.drop_interval_points == (100 * low, 100 * high)
    assert report.flip_rate == 17 / 846
    assert (report.target, report.place, report.gate_looks, report.max_drop_points) == ("cpu", "host", 2, 1.0)
    assert (report.shard_sha256, report.artifact_sha256) == ("5" * 64, "a" * 64)
    assert (report.instruction_set, report.runtime) == ("avx2", "onnxruntime 1.22.0")
    assert report.float_top5 is None


def test_a_gain_is_a_negative_drop() -> None:
    report = judged(1000, lost=2, won=9)
    assert report.drop_points == pytest.approx(-0.7)
    assert report.artifact_top1 > report.float_top1


def test_flips_between_wrong_answers_count_as_flips_alone() -> None:
    labels = np.zeros(100, np.int64)
    predicted = labels.copy()
    predicted[:10] = 1
    other = predicted.copy()
    other[:4] = 2
    report = judge(
        labels,
        answers(predicted, 3),
        answers(other, 3),
        classes=classes_of(3),
        terms=Terms(max_drop=1.0, gate_looks=1),
        origin=ORIGIN,
    )
    assert (report.lost, report.won, report.flip_rate) == (0, 0, 0.04)


def test_advice_names_the_images_that_would_decide_it() -> None:
    assert "about 649 images" in judged(300, lost=3, won=3).advice
    assert "about 268 images" in judged(100, lost=0, won=0).advice
    assert judged(700, lost=7, won=7).verdict is Verdict.PASS


@pytest.mark.parametrize(("lost", "won", "why"), [(10, 1, "reaches the 1 allowed"), (16, 6, "reaches the 1 allowed")])
def test_advice_where_more_images_cannot_help(lost: int, won: int, why: str) -> None:
    report = judged(846, lost=lost, won=won)
    assert report.verdict is Verdict.UNDECIDED
    assert "are unlikely to help" in report.advice
    assert why in report.advice


@pytest.mark.parametrize("seed", range(5))
def test_every_figure_counted_by_hand(seed: int) -> None:
    """Random logits with ties and an absent class, image by image in plain Python."""
    rng = np.random.default_rng(seed)
    classes, images = 13, 120
    labels = rng.integers(0, classes - 1, images)
    float_logits = rng.integers(0, 6, (images, classes)).astype(np.float32)
    float_logits[np.arange(images), labels] += rng.integers(0, 6, images)
    logits = float_logits + rng.integers(0, 2, (images, classes)).astype(np.float32)
    report = judge(
        labels,
        float_logits,
        logits,
        classes=classes_of(classes),
        terms=Terms(max_drop=3.0, gate_looks=1),
        origin=ORIGIN,
    )

    def ranking(row: Logits) -> list[int]:
        return sorted(range(classes), key=lambda index: (-row[index], index))

    rankings = [(ranking(one), ranking(other)) for one, other in zip(float_logits, logits, strict=True)]
    rights = [(one[0] == label, other[0] == label) for (one, other), label in zip(rankings, labels, strict=True)]
    assert report.float_top1 == pytest.approx(sum(one for one, _ in rights) / images)
    assert report.artifact_top1 == pytest.approx(sum(other for _, other in rights) / images)
    assert report.lost == sum(one and not other for one, other in rights)
    assert report.won == sum(other and not one for one, other in rights)
    assert report.flip_rate == pytest.approx(sum(one[0] != other[0] for one, other in rankings) / images)
    assert report.float_top5 == pytest.approx(
        sum(label in one[:5] for (one, _), label in zip(rankings, labels, strict=True)) / images
    )
    assert report.artifact_top5 == pytest.approx(
        sum(label in other[:5] for (_, other), label in zip(rankings, labels, strict=True)) / images
    )
    drops = {}
    for index in range(classes - 1):
        own = [right for right, label in zip(rights, labels, strict=True) if label == index]
        drops[f"class{index}"] = 100 * sum(int(one) - int(other) for one, other in own) / len(own)
    assert report.worst_class_drop_points == pytest.approx(max(drops.values()))
    assert drops[report.worst_class] == pytest.approx(max(drops.values()))


def test_top5_is_left_out_for_ten_classes() -> None:
    labels, float_logits, _ = pair(100, lost=0, won=0)
    assert accuracy_of(labels, float_logits).top5 is None
    labels, float_logits, _ = pair(110, lost=0, won=0, both_wrong=0, classes=11)
    assert accuracy_of(labels, float_logits).top5 == 1.0
    assert accuracy_of(labels, float_logits).top1 == 1.0


def test_a_float_model_that_guesses_is_no_baseline() -> None:
    labels = np.arange(100) % 10
    guesses = answers(np.random.default_rng(3).integers(0, 10, 100), 10)
    with pytest.raises(DataError, match="preprocessing"):
        judge(labels, guesses, guesses, classes=classes_of(10), terms=Terms(max_drop=1.0, gate_looks=1), origin=ORIGIN)


def test_answers_that_are_no_numbers_are_an_error() -> None:
    labels, float_logits, logits = pair(100, lost=0, won=0)
    logits[7, 2] = np.inf
    logits[7, 3] = np.nan
    with pytest.raises(CompileError, match="1 of 100 images"):
        judge(
            labels,
            float_logits,
            logits,
            classes=classes_of(10),
            terms=Terms(max_drop=1.0, gate_looks=1),
            origin=ORIGIN,
        )


def test_answers_to_other_images_are_an_error() -> None:
    labels, float_logits, logits = pair(100, lost=0, won=0)
    with pytest.raises(DataError, match=r"\[99, 10\]"):
        judge(
            labels,
            float_logits,
            logits[1:],
            classes=classes_of(10),
            terms=Terms(max_drop=1.0, gate_looks=1),
            origin=ORIGIN,
        )
    with pytest.raises(DataError, match="no images"):
        judge(
            labels[:0],
            float_logits[:0],
            logits[:0],
            classes=classes_of(10),
            terms=Terms(max_drop=1.0, gate_looks=1),
            origin=ORIGIN,
        )


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """An artifact folder as a build leaves it, without its model: judging again does not open it."""
    digits = open_dataset("digits")
    gate = digits.gate.subset(range(300))
    labels = gate.labels
    predicted = labels.copy()
    predicted[:2] = (labels[:2] + 1) % 10
    preprocessing = Preprocessing(resize=None, crop=(32, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    pack_shard(
        gate,
        answers(labels, 10),
        classes=digits.classes,
        preprocessing=preprocessing,
        progress=Silent(),
        folder=tmp_path,
    )
    with Shard(tmp_path / SHARD) as shard:
        sha256 = shard.sha256
    write_predictions(
        tmp_path / PREDICTIONS,
        Predictions(
            logits=answers(predicted, 10),
            shard_sha256=sha256,
            artifact_sha256="a" * 64,
            instruction_set="avx2",
            runtime="onnxruntime 1.22.0",
        ),
    )
    Manifest(
        schema=1,
        name="digits",
        version="0.1.0",
        target="cpu",
        runtime="onnxruntime",
        runtime_version="1.22.0",
        model_file="model.onnx",
        model_sha256="a" * 64,
        precision="fp32",
        weight_bits=None,
        input_shape=(3, 32, 32),
        classes=digits.classes,
        preprocessing=preprocessing,
        session_options={},
        instruction_set="avx2",
        tolerance=1e-4,
    ).write(tmp_path)
    return tmp_path


def judge_stored(folder: Path, max_drop: float) -> AccuracyReport:
    return judge_predictions(
        folder / SHARD,
        folder / PREDICTIONS,
        artifact=folder,
        place=Place.HOST,
        terms=Terms(max_drop=max_drop, gate_looks=1),
    )


def test_judging_again_with_another_margin(stored: Path) -> None:
    verdicts = {margin: judge_stored(stored, margin).verdict for margin in (0.1, 1.0, 3.0)}
    assert verdicts == {0.1: Verdict.UNDECIDED, 1.0: Verdict.UNDECIDED, 3.0: Verdict.PASS}
    assert judge_stored(stored, 3.0).lost == 2


@pytest.mark.parametrize("what", ["shard", "artifact"])
def test_predictions_of_another_shard_or_artifact_are_refused(stored: Path, what: str) -> None:
    path = stored / PREDICTIONS
    ours, other = read_predictions(path), "b" * 64
    theirs = replace(ours, shard_sha256=other) if what == "shard" else replace(ours, artifact_sha256=other)
    write_predictions(path, theirs)
    with pytest.raises(DataError, match=f"were made with the {what} bbbb"):
        judge_stored(stored, 1.0)


def test_judging_needs_no_heavy_library_and_no_image(stored: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from pipeline.artifacts import Place\n"
        "from pipeline.validate.judge import Terms, judge_predictions\n"
        f"folder = pathlib.Path({str(stored)!r})\n"
        f"judge_predictions(folder / {SHARD!r}, folder / {PREDICTIONS!r}, artifact=folder, place=Place.HOST,"
        " terms=Terms(max_drop=3.0, gate_looks=1))\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'scipy', 'sklearn', 'docker'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
