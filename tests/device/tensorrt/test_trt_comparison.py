"""How proven engines are timed in turn, which of them wins, and what is kept of that."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from targets.device.tensorrt.fastest import (
    BLOCK_RUNS,
    MIN_ROUNDS,
    ROUNDS,
    WARM_UP_ROUNDS,
    Comparison,
    Rival,
    fastest,
    file_of,
    medians_of,
    read_comparison,
    time_in_turn,
)

HASHES = {"int8": "a" * 64, "fp16": "b" * 64}
FOUND = Comparison(
    chosen="fp16",
    place="Orin with TensorRT 10.3.0.30",
    batch=1,
    runs=1000,
    rivals=[Rival("int8", "a" * 64, 0.35, ""), Rival("fp16", "b" * 64, 0.31, ""), Rival("fp32", "", None, "why.")],
    terms={"max_drop": 1.0},
)


class Clocked:
    """A session whose runs take as long as they are told to."""

    least_batch = 1

    def __init__(self, name: str, order: list[str], times: list[float]) -> None:
        self._name, self._order, self._times = name, order, times

    def gpu_ms(self, runs: int) -> list[float]:
        self._order.append(self._name)
        return [self._times.pop(0) if self._times else 1.0] * runs


def test_blocks_are_run_in_turn_and_those_that_warm_up_do_not_count() -> None:
    order: list[str] = []
    heard: list[tuple[int, int]] = []
    cold = [100.0] * WARM_UP_ROUNDS
    sessions = [Clocked("a", order, list(cold)), Clocked("b", order, list(cold)), Clocked("c", order, [*cold, 3.0])]
    times = time_in_turn(sessions, lambda number, every: heard.append((number, every)))
    assert [len(each) for each in times] == [ROUNDS * BLOCK_RUNS] * 3
    assert order[:9] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert heard[0] == (1, WARM_UP_ROUNDS + ROUNDS)
    assert [max(each) for each in times] == [1.0, 1.0, 3.0]
    assert medians_of(dict(zip("abc", times, strict=True))) == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_slow_engines_are_timed_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("targets.device.tensorrt.fastest.MAX_SECONDS", 0.0)
    (times,) = time_in_turn([Clocked("a", [], [])], lambda number, every: None)
    assert len(times) == MIN_ROUNDS * BLOCK_RUNS


@pytest.mark.parametrize(
    ("medians", "expected"),
    [
        ({"int8": 1.0, "fp16": 2.0, "fp32": 3.0}, "int8"),
        ({"int8": 1.04, "fp16": 1.0}, "int8"),
        ({"int8": 1.06, "fp16": 1.0}, "fp16"),
        ({"int8": 1.2, "fp16": 1.04, "fp32": 1.0}, "fp16"),
        ({"int8": 1.2, "fp16": 1.06, "fp32": 1.0}, "fp32"),
        ({"fp32": 1.0}, "fp32"),
    ],
)
def test_the_fastest_wins_and_a_tie_goes_to_the_smallest(medians: dict[str, float], expected: str) -> None:
    assert fastest(medians) == expected


def test_it_is_told_in_one_sentence() -> None:
    on = "on Orin with TensorRT 10.3.0.30"
    assert FOUND.text == f"fp16: 0.31 ms against 0.35 ms of int8, timed in turn {on}"
    assert FOUND.left_out == "Excluded from the comparison: why."
    assert replace(FOUND, batch=32).text.endswith(f"timed in turn at batch 32 {on}")
    tied = replace(FOUND, chosen="int8", rivals=[Rival("int8", "a", 0.32, ""), Rival("fp16", "b", 0.31, "")])
    assert tied.text == (
        f"int8: 0.32 ms against 0.31 ms of fp16 (as fast within 5 %, and smaller), timed in turn {on}"
    )


def test_it_is_kept_by_the_engines_it_is_about(tmp_path: Path) -> None:
    file = file_of(tmp_path, HASHES)
    assert file.parent == tmp_path
    assert file == file_of(tmp_path, dict(reversed(HASHES.items())))
    assert file != file_of(tmp_path, {**HASHES, "int8": "c" * 64})
    assert read_comparison(file, HASHES) is None
    file.write_text(json.dumps(FOUND.as_json()))
    assert read_comparison(file, HASHES) == FOUND
    assert read_comparison(file, {"int8": "a" * 64}) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"chosen": "int4"},
        {"chosen": "fp32"},
        {"rivals": []},
        {"rivals": [{"precision": "int8"}]},
        {"more": 1},
    ],
)
def test_what_is_damaged_is_not_taken_for_a_comparison(tmp_path: Path, changes: dict[str, object]) -> None:
    file = file_of(tmp_path, HASHES)
    file.write_text(json.dumps({**FOUND.as_json(), **changes}))
    assert read_comparison(file, HASHES) is None
