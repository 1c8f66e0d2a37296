"""The time that was asked for against the artifact's: held, missed or not to be known, in the unit that was asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import Artifact, Candidate, Latency, Precision
from pipeline.deadline import Timing
from pipeline.errors import LatencyMissed
from pipeline.gatekeeper import stop_if_late
from pipeline.latency import CHOICE
from pipeline.timeliness import Timeliness, timeliness_of

MEASURED = {"float_ms": 8.0, "unpruned_ms": 4.0, "pruned_ms": 2.0, "noise": 0.01}


def latency(cpu_ms: float) -> Latency:
    return Latency(cpu_ms=cpu_ms, wall_ms=cpu_ms, wall_p90_ms=cpu_ms, threads=1, runs=10)


def artifact_of(cpu_ms: float | None, *, float_ms: float = 8.0, stand_in: str | None = None) -> Artifact:
    candidate = Candidate(
        precision=Precision.INT8, folder=Path(), latency=None if cpu_ms is None else latency(cpu_ms), audit=None,
        selection_top1=1.0, selection_drop_points=0.0,
    )  # fmt: skip
    return Artifact(
        folder=Path(), target="cpu", precision=Precision.INT8, reason="", candidate=candidate,
        float_latency=latency(float_ms), stand_in=stand_in,
    )  # fmt: skip


def found(folder: Path, artifact: Artifact, **plan: Any) -> Timeliness:
    facts = {
        "asked": {"latency_ms": 2.1, "speedup": None}, "unpruned_ms": 4.4, "predicted_ms": 2.0,
        "measured": MEASURED, "not_measured": None,
    }  # fmt: skip
    (folder / CHOICE).write_text(json.dumps(facts | plan))
    made = timeliness_of(folder, artifact)
    assert made is not None
    return made


SPEEDUP = {"asked": {"latency_ms": None, "speedup": 2.0}}


@pytest.mark.parametrize(
    ("plan", "artifact", "verdict"),
    [
        pytest.param({}, artifact_of(2.0), "held", id="latency"),
        pytest.param({}, artifact_of(2.2), "held", id="within what timing allows"),
        pytest.param({}, artifact_of(2.3), "missed", id="too long"),
        pytest.param(SPEEDUP, artifact_of(2.0), "held", id="speedup"),
        pytest.param(SPEEDUP, artifact_of(2.3), "missed", id="too little"),
        # All of that run took twice as long; so did the unpruned network, had it been there.
        pytest.param(SPEEDUP, artifact_of(4.0, float_ms=16.0), "held", id="on a slower day"),
        pytest.param({}, artifact_of(4.0, float_ms=16.0), "missed", id="too long on a slower day"),
        pytest.param({}, artifact_of(9.0, stand_in="linux/amd64"), "unmeasured", id="timed elsewhere"),
        pytest.param({}, artifact_of(None), "unmeasured", id="not timed"),
        pytest.param(
            SPEEDUP | {"measured": None, "not_measured": "the table is of x"}, artifact_of(9.0), "unmeasured",
            id="table of another machine",
        ),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_clock(tmp_path: Path, plan: dict[str, Any], artifact: Artifact, verdict: str) -> None:
    made = found(tmp_path, artifact, **plan)
    assert made.verdict == verdict
    assert (made.reason == "") == (verdict != "unmeasured")
    assert str(made).startswith(f"time {verdict}")
    if verdict == "missed":
        with pytest.raises(LatencyMissed, match=r"asked, .* of the artifact; 5% more is what timing allows"):
            stop_if_late(made)
    else:
        stop_if_late(made)


def test_figures_are_in_milliseconds_and_in_speedups(tmp_path: Path) -> None:
    made = found(tmp_path, artifact_of(2.0, float_ms=10.0), **SPEEDUP)
    assert (made.predicted_ms, made.planned_ms, made.artifact_ms) == (2.0, 2.0, 2.0)
    # 10 ms * 4 / 8: what the unpruned int8 network would have taken beside the artifact.
    assert (made.predicted_speedup, made.planned_speedup, made.artifact_speedup) == pytest.approx((2.2, 2.0, 2.5))
    assert str(made) == "time held: a speedup of 2 asked, 2.2 predicted, 2 measured after the cut, 2.5 of the artifact"
    made = found(tmp_path, artifact_of(2.0))
    asked = "time held: 2.1 ms asked, 2 ms predicted, 2 ms measured after the cut, 2 ms of the artifact"
    assert str(made) == asked


def test_what_was_timed_in_one_run_counts_alone(tmp_path: Path) -> None:
    slow = artifact_of(2.5)
    assert found(tmp_path, slow, **SPEEDUP).verdict == "missed"
    made = timeliness_of(tmp_path, slow, Timing(float_ms=9.0, unpruned_ms=4.2, pruned_ms=2.1, noise=0.01))
    assert made is not None
    assert (made.verdict, made.artifact_ms, made.artifact_speedup) == ("held", 2.1, 2.0)


def test_where_no_time_was_asked_for_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert timeliness_of(tmp_path, artifact_of(2.0)) is None
    stop_if_late(None)
