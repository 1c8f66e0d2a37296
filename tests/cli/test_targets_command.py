"""`deploy targets`: the table, one target in words by either spelling, and as JSON."""

import json

import pytest

from pipeline.cli.targets import targets
from pipeline.errors import TargetError
from targets.target import catalogue


def said_by(capsys: pytest.CaptureFixture[str], *words: str, as_json: bool = False) -> str:
    targets(list(words), as_json=as_json)
    return capsys.readouterr().out


def test_the_table_has_a_line_for_each_target_and_the_alias(capsys: pytest.CaptureFixture[str]) -> None:
    said = said_by(capsys)
    names = [line.split()[0] for line in said.splitlines()]
    assert {target.name for target in catalogue()} <= set(names)
    assert "orin-jp72 = jetson" in said


@pytest.mark.parametrize("words", [("jetson",), ("show", "jetson"), ("show", "orin-jp72"), ("orin-jp72",)])
def test_one_target_is_explained_by_either_spelling(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = said_by(capsys, *words).splitlines()
    assert lines[0] == "orin-jp72 (also called jetson): Jetson Orin, JetPack 7.2, TensorRT 10.16"
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("  compute capability  8.7") for line in lines)
    # What goes on from the line above keeps the column of the sentences.
    assert all(line.startswith("  ") and (line[2] != " " or line[:22].isspace()) for line in lines[1:])


def test_json_has_every_fact_and_the_aliases(capsys: pytest.CaptureFixture[str]) -> None:
    every = json.loads(said_by(capsys, as_json=True))
    assert [each["name"] for each in every] == [target.name for target in catalogue()]
    [one] = json.loads(said_by(capsys, "show", "jetson", as_json=True))
    assert (one["name"], one["aliases"]) == ("orin-jp72", ["jetson"])
    assert one["gpu"]["l4t"] == ["39.2"]
    assert one == every[[each["name"] for each in every].index("orin-jp72")]
    [cpu] = json.loads(said_by(capsys, "cpu", as_json=True))
    assert (cpu["gpu"], cpu["aliases"]) == (None, [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show",), "needs a name"),
        (("cpu", "jetson"), "explains one at a time, not cpu jetson: deploy targets show jetson"),
        (("show", "cpu", "jetson"), "one at a time"),
        (("show", "cpv"), r"no target 'cpv'\. Did you mean cpu\?"),
        (("show", "nano"), "nano is not supported: .*Orin Nano"),
    ],
)
def test_what_cannot_be_explained_is_said(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(TargetError, match=said):
        targets(list(words), as_json=False)
