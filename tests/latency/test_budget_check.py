"""The time that was asked for against the artifact's: held, missed or not to be known, in the unit that was asked."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import Artifact, Candidate, Latency, Place, Precision, TimeBudgetResult
from pipeline.errors import LatencyMissed
from pipeline.latency.budget_check import check_time_budget, timeliness_text
from pipeline.latency.table import CHOICE, Timing
from pipeline.validate.packaging_rule import stop_if_late

MEASURED = {"unpruned_ms": 4.0, "pruned_ms": 2.0, "noise": 0.01}
SPEEDUP = {"asked": {"latency_ms": None, "speedup": 2.0}}
ELSEWHERE = {"measured": None, "not_measured": "the table is for x"}


def artifact_of(place: Place = Place.HOST) -> Artifact:
    # Beside the fp32 model alone, in another run: not what counts.
    latency = Latency(cpu_ms=70.0, wall_ms=70.0, wall_p90_ms=70.0, threads=1, runs=10)
    candidate = Candidate(
        precision=Precision.INT8, folder=Path(), latency=None if place is Place.SIMULATED else latency, audit=None,
        selection_top1=1.0, selection_drop_points=0.0,
    )  # fmt: skip
    return Artifact(
        folder=Path(), target="cpu", precision=Precision.INT8, reason="", candidate=candidate,
        float_latency=latency, place=place, measured_by="linux/amd64",
    )  # fmt: skip


def run(pruned_ms: float, unpruned_ms: float = 4.0) -> Timing:
    return Timing(unpruned_ms=unpruned_ms, pruned_ms=pruned_ms, noise=0.01)


class Clock:
    """One run after the other, and whether each was asked for anew."""

    def __init__(self, *runs: Timing | None) -> None:
        self.runs = list(runs)
        self.asked: list[bool] = []

    def __call__(self, again: bool) -> Timing | None:
        self.asked.append(again)
        return self.runs[min(len(self.asked), len(self.runs)) - 1]


def found(folder: Path, clock: Clock, plan: dict[str, Any], artifact: Artifact | None = None) -> TimeBudgetResult:
    facts = {
        "asked": {"latency_ms": 2.1, "speedup": None}, "unpruned_ms": 4.4, "predicted_ms": 2.0,
        "measured": MEASURED, "not_measured": None,
    }  # fmt: skip
    (folder / CHOICE).write_text(json.dumps(facts | plan))
    made = check_time_budget(folder, artifact or artifact_of(), clock)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("plan", "timing", "artifact", "verdict"),
    [
        pytest.param({}, run(2.0), artifact_of(), "held", id="latency"),
        pytest.param({}, run(2.2), artifact_of(), "held", id="within what timing allows"),
        pytest.param({}, run(2.3), artifact_of(), "missed", id="too long"),
        pytest.param(SPEEDUP, run(2.0), artifact_of(), "held", id="speedup"),
        pytest.param(SPEEDUP, run(2.3), artifact_of(), "missed", id="too little"),
        pytest.param(SPEEDUP, run(4.0, 8.0), artifact_of(), "held", id="on a slower day"),
        pytest.param({}, run(4.0, 8.0), artifact_of(), "missed", id="too long on a slower day"),
        pytest.param({}, None, artifact_of(Place.EMULATED), "unmeasured", id="timed elsewhere"),
        pytest.param({}, None, artifact_of(Place.SIMULATED), "unmeasured", id="not timed"),
        pytest.param(SPEEDUP | ELSEWHERE, None, artifact_of(), "unmeasured", id="table of another machine"),
    ],
)
def test_the_verdict_follows_the_clock(
    tmp_path: Path, plan: dict[str, Any], timing: Timing | None, artifact: Artifact, verdict: str
) -> None:
    made = found(tmp_path, Clock(timing), plan, artifact)
    assert made.verdict == verdict
    assert (made.reason == "") == (verdict != "unmeasured")
    assert timeliness_text(made).startswith(f"time {verdict}")
    if verdict == "missed":
        with pytest.raises(LatencyMissed, match=r"requested, .* of the artifact; timing allows 5% more"):
            stop_if_late(made, artifact)
    else:
        stop_if_late(made, artifact)


def test_figures_are_in_milliseconds_and_in_speedups(tmp_path: Path) -> None:
    made = found(tmp_path, Clock(run(2.0, 5.0)), SPEEDUP)
    assert (made.predicted_ms, made.planned_ms, made.artifact_ms) == (2.0, 2.0, 2.0)
    assert (made.predicted_speedup, made.planned_speedup, made.artifact_speedup) == pytest.approx((2.2, 2.0, 2.5))
    asked = "time held: a speedup of 2 requested, 2.2 predicted, 2 measured after pruning, 2.5 of the artifact"
    assert timeliness_text(made) == asked
    made = found(tmp_path, Clock(run(2.0)), {})
    asked = "time held: 2.1 ms requested, 2 ms predicted, 2 ms measured after pruning, 2 ms of the artifact"
    assert timeliness_text(made) == asked


def test_a_miss_is_timed_once_more_and_a_hit_is_not(tmp_path: Path) -> None:
    clock = Clock(run(2.5), run(2.1, 4.2))
    made = found(tmp_path, clock, SPEEDUP)
    assert (made.verdict, made.artifact_ms, made.artifact_speedup) == ("held", 2.1, 2.0)
    assert clock.asked == [False, True]
    clock = Clock(run(2.5), run(2.6))
    assert found(tmp_path, clock, SPEEDUP).artifact_ms == 2.6
    assert clock.asked == [False, True]
    clock = Clock(run(2.0))
    assert found(tmp_path, clock, SPEEDUP).verdict == "held"
    assert clock.asked == [False]


def test_where_no_time_was_asked_for_there_is_nothing_to_say(tmp_path: Path) -> None:
    clock = Clock(run(2.0))
    assert check_time_budget(tmp_path, artifact_of(), clock) is None
    assert clock.asked == []
    stop_if_late(None, artifact_of())


def test_a_miss_in_float_says_why_it_is_in_float(tmp_path: Path) -> None:
    made = found(tmp_path, Clock(run(7.0)), SPEEDUP)
    in_float = replace(artifact_of(), precision=Precision.FP32, reason="fp32: int8 loses 3.10 points")
    with pytest.raises(LatencyMissed, match=r"The artifact runs in fp32: int8 loses 3.10 points\. No image"):
        stop_if_late(made, in_float)
    with pytest.raises(LatencyMissed) as caught:
        stop_if_late(made, artifact_of())
    assert "runs in" not in str(caught.value)
