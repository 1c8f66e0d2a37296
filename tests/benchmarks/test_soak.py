"""`benchmarks/soak.py`: a minute of load on a real server, and what it would call a fault."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soak
from device_server import ROOT, environment
from tiny_package import write_tiny_package

GOOD: dict[str, Any] = {"at": 0.0, "seconds": 0.001, "status": 200, "is_good": True, "has_reason": True}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/soak.py", str(folder), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment({"PYTHONPATH": ROOT}), capture_output=True, text=True, timeout=300
    )


def counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    return {name.strip(): int(count) for name, count in re.findall(r"^(.+?)│ +(\d+) *$", done.stdout, re.MULTILINE)}


def check(done: subprocess.CompletedProcess[str], *, at_least: int) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    found = counts(done)
    assert found["requests"] >= at_least
    assert found["status 200"] == found["of these good"]
    assert found["status 400"] > 0
    assert found["status 404"] > 0
    assert found["5xx without a reason"] == found["restarts"] == 0


@pytest.mark.slow
def test_a_few_seconds_of_load_leave_the_server_as_it_was(tmp_path: Path) -> None:
    check(run(write_tiny_package(tmp_path / "artifact").folder, "--minutes", "0.08", "--rate", "60"), at_least=60)


@pytest.mark.long
def test_a_minute_of_load_leaves_the_server_as_it_was(tmp_path: Path) -> None:
    check(run(write_tiny_package(tmp_path / "artifact").folder, "--minutes", "1"), at_least=600)


@pytest.mark.slow
def test_memory_that_grows_beyond_the_bound_is_a_fault(tmp_path: Path) -> None:
    done = run(write_tiny_package(tmp_path / "artifact").folder, "--minutes", "0.04", "--max-growth", "-1000")
    assert done.returncode == 1
    assert "fault: memory grew from" in done.stdout


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        pytest.param({}, None, id="a good one answered"),
        pytest.param({"is_good": False, "status": 400}, None, id="a broken one refused"),
        pytest.param({"status": 429}, None, id="full, and says so"),
        pytest.param({"status": 503}, None, id="too busy, and says so"),
        pytest.param({"status": 500, "has_reason": False}, "1 answers of 5xx gave no reason", id="no reason"),
        pytest.param({"status": 503, "has_reason": False}, "1 answers of 5xx gave no reason", id="busy, without one"),
        pytest.param({"status": 429, "has_reason": False}, "1 refusals gave no reason", id="full, without one"),
        pytest.param({"status": 0, "has_reason": False}, "1 requests got no answer", id="no answer"),
        pytest.param({"status": 400}, "1 good requests were refused", id="a good one refused"),
        pytest.param({"is_good": False}, "1 broken requests were answered", id="a broken one answered"),
    ],
)
def test_what_is_a_fault(answer: dict[str, Any], fault: str | None) -> None:
    answers = [soak.Answer(**GOOD), soak.Answer(**{**GOOD, **answer})]
    result = soak.Result(answers, [(0.0, 10.0), (1.0, 12.0)], 0)
    assert soak.faults(result, max_growth_mib=24) == ([] if fault is None else [fault])


def test_a_restart_and_a_server_that_never_answered_are_faults() -> None:
    memory = [(0.0, 10.0), (1.0, 12.0)]
    assert soak.faults(soak.Result([soak.Answer(**GOOD)], memory, 2), max_growth_mib=24) == ["2 restarts"]
    assert soak.faults(soak.Result([], memory, 0), max_growth_mib=24) == ["no good request was answered at all"]


@pytest.mark.parametrize(
    ("body", "gives"),
    [
        (b'{"error": "no such model"}', True),
        (b'{"error": "internal error; see the log"}', False),
        (b'{"error": ""}', False),
        (b"[]", False),
        (b"Bad Gateway", False),
    ],
)
def test_what_is_a_reason(body: bytes, gives: bool) -> None:
    assert soak._gives_reason(body) is gives
