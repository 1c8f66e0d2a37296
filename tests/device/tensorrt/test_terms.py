import json
from pathlib import Path

import pytest

from targets.device.files import FIRST_START
from targets.device.model.manifest import ManifestError
from targets.device.tensorrt.terms import Terms, read_terms

GOOD = {"schema": 1, "max_drop": 1, "confidence": 0.99, "undecided": "stop", "fallback": "fp16"}


def test_the_terms_decide_what_is_served(tmp_path: Path) -> None:
    (tmp_path / FIRST_START).write_text(json.dumps(GOOD))
    strict = read_terms(tmp_path)
    assert strict == Terms(max_drop=1.0, undecided="stop", fallback="fp16", confidence=0.99)
    (tmp_path / FIRST_START).write_text(json.dumps({**GOOD, "undecided": "package"}))
    mild = read_terms(tmp_path)
    assert [strict.serves(verdict) for verdict in ("pass", "undecided", "fail")] == [True, False, False]
    assert [mild.serves(verdict) for verdict in ("pass", "undecided", "fail")] == [True, True, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "does not have schema 1"),
        (json.dumps({**GOOD, "schema": 2}), "does not have schema 1"),
        (
            json.dumps({**GOOD, "more": 1}),
            "does not have schema 1 with confidence, fallback, max_drop, schema, undecided",
        ),
        (json.dumps({**GOOD, "max_drop": True}), "has max_drop True"),
        (json.dumps({**GOOD, "max_drop": 101}), "has max_drop 101"),
        (json.dumps({**GOOD, "max_drop": float("nan")}), "has max_drop nan"),
        (json.dumps({**GOOD, "confidence": 95}), "has confidence 95; the usual value is 0.95"),
        (json.dumps({**GOOD, "confidence": 1.0}), "has confidence 1.0"),
        (json.dumps({**GOOD, "fallback": "int4"}), "has fallback 'int4'; expected none, fp16 or fastest"),
        (
            json.dumps({**GOOD, "undecided": "perhaps"}),
            "undecided 'perhaps'; expected points from 0 to 100, and stop or package",
        ),
    ],
)
def test_terms_that_are_none_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / FIRST_START).write_text(content)
    with pytest.raises(ManifestError, match=message):
        read_terms(tmp_path)


def test_missing_terms_are_no_leave_to_serve(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=f"has no {FIRST_START}, by which its engine is judged"):
        read_terms(tmp_path)
