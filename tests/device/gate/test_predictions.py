"""`predictions.npz` as a device writes it: the host reads it, and the device what the host has written."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.validate.predictions import Predictions as OfHost
from pipeline.validate.predictions import read_predictions as read_on_host
from pipeline.validate.predictions import write_predictions as write_on_host
from targets.device.files import PREDICTIONS as FILE
from targets.device.gate.predictions import Predictions, read_predictions

FACTS = {
    "shard_sha256": "a" * 64,
    "artifact_sha256": "b" * 64,
    "instruction_set": "sm_87",
    "runtime": "tensorrt 10.3.0.30",
}
LOGITS = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)


def test_host_and_device_read_each_others(tmp_path: Path) -> None:
    Predictions(logits=LOGITS, **FACTS).write(tmp_path / FILE)
    there = read_on_host(tmp_path / FILE)
    np.testing.assert_array_equal(there.logits, LOGITS)
    assert {name: getattr(there, name) for name in FACTS} == FACTS
    write_on_host(tmp_path / FILE, OfHost(logits=LOGITS, **FACTS))
    here = read_predictions(tmp_path)
    assert here is not None
    np.testing.assert_array_equal(here.logits, LOGITS)
    assert {name: getattr(here, name) for name in FACTS} == FACTS


def test_equal_answers_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one.npz", "two.npz"):
        Predictions(logits=LOGITS, **FACTS).write(tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"PK\3\4", b"x" * 100], ids=["none", "empty", "cut", "other"])
def test_what_cannot_be_read_is_asked_for_again(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    assert read_predictions(tmp_path) is None


def test_so_is_what_lacks_a_fact_or_has_another_form(tmp_path: Path) -> None:
    np.savez(tmp_path / FILE, logits=LOGITS)
    assert read_predictions(tmp_path) is None
    facts = {name: np.array(value) for name, value in FACTS.items()}
    np.savez(tmp_path / FILE, logits=LOGITS.astype(np.float64), **facts)  # type: ignore[arg-type]
    assert read_predictions(tmp_path) is None
