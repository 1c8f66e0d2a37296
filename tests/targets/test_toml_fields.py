"""What a table of a target's file may hold."""

from pathlib import Path

import pytest

from pipeline.errors import TargetError
from targets.toml_fields import check_keys, one_of, text, texts, truth, whole

FILE = Path("board.toml")


def test_known_keys_pass_and_optional_ones_may_be_missing() -> None:
    check_keys(FILE, {"a": 1}, known=("a", "b"), optional=("b",))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        pytest.param(
            {"colour": 1, "size": 2}, r"an unknown key 'colour' in \[gpu\]\. Did you mean color\?", id="near"
        ),
        pytest.param({"zzz": 1}, r"an unknown key 'zzz' in \[gpu\]\. Known: color, size\.", id="far"),
        pytest.param({"size": 1}, r"board\.toml lacks color in \[gpu\]\.", id="missing"),
    ],
)
def test_wrong_keys_are_refused_with_file_and_table(raw: dict[str, int], said: str) -> None:
    with pytest.raises(TargetError, match=said):
        check_keys(FILE, raw, known=("color", "size"), table="gpu")


def test_right_values_are_given_back() -> None:
    raw = {"name": "a", "list": ["1.2", "3.4"], "count": 0, "flag": False}
    assert text(raw, "name") == "a"
    assert texts(raw, "list", r"\d\.\d") == ("1.2", "3.4")
    assert whole(raw, "count", least=0) == 0
    assert truth(raw, "flag") is False
    assert one_of("x", ("x", "y")) == "x"


def test_wrong_values_are_said() -> None:
    with pytest.raises(ValueError, match=r"v = 10\.3 is not a text like '10\.3'"):
        text({"v": 10.3}, "v", r"\d+\.\d+", like="10.3")
    with pytest.raises(ValueError, match="v = '' is not a text"):
        text({"v": ""}, "v")
    with pytest.raises(ValueError, match=r"v = 'avx2' is not a list of texts"):
        texts({"v": "avx2"}, "v")
    with pytest.raises(ValueError, match=r"v = 5 is not a text"):
        texts({"v": ["a", 5]}, "v")
    with pytest.raises(ValueError, match=r"v = True is not a whole number from 0 on"):
        whole({"v": True}, "v", least=0)
    with pytest.raises(ValueError, match=r"v = 0 is not a whole number from 1 on"):
        whole({"v": 0}, "v", least=1)
    with pytest.raises(ValueError, match=r"v = 1 is not true or false"):
        truth({"v": 1}, "v")
    with pytest.raises(ValueError, match="'z' is not one of 'x', 'y'"):
        one_of("z", ("x", "y"))
