import time
from collections.abc import Callable

import pytest

from targets.runtimes import timing
from targets.runtimes.timing import time_interleaved


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MODEL_SECONDS", 0.02)
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.001)


def busy(seconds: float) -> Callable[[], None]:
    def work() -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    return work


def test_every_model_gets_its_figures() -> None:
    latencies = time_interleaved([busy(2e-4), busy(2e-4), busy(2e-4)], threads=1)
    assert len(latencies) == 3
    for latency in latencies:
        assert latency.cpu_ms > 0
        assert latency.wall_p90_ms >= latency.wall_ms >= 0.2
        assert latency.threads == 1
        assert latency.runs >= timing.MIN_ROUNDS


def test_models_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model runs once in every round, and is not always preceded by the same one."""
    calls: list[str] = []
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.0)
    inferences = [lambda name=name: calls.append(name) for name in "abc"]
    latencies = time_interleaved(inferences, threads=1)
    timed = calls[3 * timing.WARM_UP :]
    rounds = [timed[start : start + 3] for start in range(0, len(timed), 3)]
    assert len(rounds) == latencies[0].runs
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert {turn[0] for turn in rounds} == {"a", "b", "c"}


def test_quick_models_run_more_often_than_slow_ones() -> None:
    quick, slow = time_interleaved([busy(2e-5), busy(2e-3)], threads=1)
    assert quick.runs > slow.runs


def test_each_round_is_told_and_all_of_them_are_the_whole() -> None:
    shares: list[float] = []
    (latency,) = time_interleaved([lambda: time.sleep(0.005)], threads=1, report=shares.append)
    assert len(shares) == latency.runs
    assert sum(shares) == pytest.approx(1)


def test_sleep_is_no_cpu_time() -> None:
    (latency,) = time_interleaved([lambda: time.sleep(0.005)], threads=1)
    assert latency.wall_ms >= 5
    assert latency.cpu_ms < latency.wall_ms


def test_more_threads_are_counted_by_process_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def clock(name: str) -> Callable[[], float]:
        def read() -> float:
            asked.append(name)
            return 0.0

        return read

    monkeypatch.setattr(time, "process_time", clock("process"))
    monkeypatch.setattr(time, "thread_time", clock("thread"))
    assert time_interleaved([busy(1e-4)], threads=2)[0].threads == 2
    assert set(asked) == {"process"}
    asked.clear()
    time_interleaved([busy(1e-4)], threads=1)
    assert set(asked) == {"thread"}
