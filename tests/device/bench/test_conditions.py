import json
import os
import re

import numpy as np
import pytest

from targets.device.bench.conditions import (
    explain_missing,
    find_disturbances,
    find_prior_load,
    find_relevant_load,
    others_share,
    summary,
)
from targets.device.bench.sampler import Record
from targets.device.sensors.gauge import CLOCK, CPU_TIME, EVENTS, GPU_LOAD, POWER, STATE, TEMPERATURE

CPUS = os.cpu_count() or 1
SPAN = 10.0
COUNT = 101


def record_of(values: dict[tuple[str, str], list[float]], seconds: float = SPAN) -> Record:
    length = len(next(iter(values.values()))) if values else COUNT
    return Record(
        seconds=np.linspace(0, seconds, length), values={key: np.array(numbers) for key, numbers in values.items()}
    )


def ramp(first: float, last: float, length: int = COUNT) -> list[float]:
    return [float(value) for value in np.linspace(first, last, length)]


def of_cpu(share_all: float, own: float, seconds: float = SPAN) -> dict[tuple[str, str], list[float]]:
    return {
        (CPU_TIME, "all"): ramp(1000, 1000 + share_all * CPUS * seconds),
        (CPU_TIME, "own"): ramp(3, 3 + own * CPUS * seconds),
    }


@pytest.mark.parametrize(
    ("values", "gpu", "reason"),
    [
        pytest.param({(CLOCK, "cpu0"): ramp(2000, 2000)}, False, None, id="a clock that stays"),
        pytest.param(
            {(CLOCK, "cpu0"): ramp(2000, 1700)}, False, "the clock of the CPU changed between 17", id="falls"
        ),
        pytest.param(
            {(CLOCK, "cpu0"): [2000, 800] * 50, (CLOCK, "cpu4"): [800, 2000] * 50}, False, None, id="changes place"
        ),
        pytest.param({(CLOCK, "cpu0"): [2000.0] * 97 + [900.0] * 4}, False, None, id="a moment of another"),
        pytest.param({(CLOCK, "gpu"): [1300.0, 900.0] * 50}, False, None, id="the GPU's, for a CPU"),
        pytest.param({(CLOCK, "gpu"): [1300.0, 900.0] * 50}, True, "clock of the GPU", id="the GPU's"),
        pytest.param({(CLOCK, "cpu0"): ramp(2000, 1000)}, True, None, id="the CPU's, for a GPU"),
        pytest.param({(CLOCK, "gpu memory"): [7000.0, 400.0] * 50}, True, None, id="the memory's"),
        pytest.param({(TEMPERATURE, "a"): ramp(50, 53)}, False, None, id="a little warmer"),
        pytest.param(
            {(TEMPERATURE, "a"): ramp(50, 51), (TEMPERATURE, "b"): ramp(50, 60)},
            False,
            r"the temperature of b rose by 8\.1 K \(at most 3 K\)",
            id="warmer",
        ),
        pytest.param({(TEMPERATURE, "a"): ramp(60, 50)}, False, None, id="cooler"),
        pytest.param({(TEMPERATURE, "a"): [50.0] * 50 + [80.0] + [50.0] * 50}, False, None, id="one wrong reading"),
        pytest.param({(EVENTS, "oc3"): [4.0] * COUNT}, False, None, id="events of before"),
        pytest.param({(EVENTS, "oc3"): ramp(4, 9)}, False, "clocks were throttled: oc3 counted 5 events", id="events"),
        pytest.param({(STATE, "alert"): [0.0] * 90 + [1.0] * 11}, False, "clocks were throttled: alert", id="a state"),
        pytest.param({(STATE, "intel_powerclamp"): [-1.0] * COUNT}, False, None, id="a state that is off"),
        pytest.param(of_cpu(0.55, 0.5), False, None, id="a little of other programs"),
        pytest.param(of_cpu(0.9, 0.5), False, "other programs used 40% of the CPUs", id="other programs"),
        pytest.param({(POWER, "VDD_IN"): ramp(5, 25)}, False, None, id="power is a result"),
    ],
)
def test_what_disturbs_a_run(values: dict[tuple[str, str], list[float]], gpu: bool, reason: str | None) -> None:
    found = find_disturbances(record_of(values), gpu=gpu)
    if reason is None:
        assert found == []
    else:
        (only,) = found
        assert re.search(reason, only)


def test_heat_can_be_left_out() -> None:
    record = record_of({(TEMPERATURE, "a"): ramp(50, 60), (STATE, "alert"): [1.0] * COUNT})
    assert len(find_disturbances(record, gpu=False)) == 2
    assert find_disturbances(record, gpu=False, heat=False) == ["clocks were throttled: alert"]


def test_what_runs_before_the_start_counts() -> None:
    idle = record_of({**of_cpu(0.02, 0.0), (GPU_LOAD, "gpu"): [35.0] * COUNT})
    assert find_prior_load(idle, gpu=True) == ["the GPU was 35 % busy before the start (at most 10 %)"]
    assert find_prior_load(idle, gpu=False) == []
    crowded = record_of(of_cpu(0.3, 0.0))
    told = "other programs used 30% of the CPUs before the start (at most 10%)"
    assert find_prior_load(crowded, gpu=False) == [told]
    # What ended before the run did it no harm; where that is not known, it may have.
    assert find_relevant_load(crowded, record_of(of_cpu(0.5, 0.5)), gpu=False) == []
    assert find_relevant_load(crowded, record_of({}), gpu=False) == [told]
    assert len(find_relevant_load(idle, record_of(of_cpu(0.5, 0.5)), gpu=True)) == 1


@pytest.mark.parametrize(
    ("values", "seconds", "share"),
    [
        (of_cpu(0.75, 0.25), SPAN, 0.5),
        # What is counted in ticks may lag behind what is counted exactly.
        (of_cpu(0.2, 0.21), SPAN, 0.0),
        (of_cpu(0.75, 0.25, 0.2), 0.2, None),
        ({(CPU_TIME, "own"): ramp(0, 1)}, SPAN, None),
        ({}, SPAN, None),
    ],
)
def test_the_share_of_others(values: dict[tuple[str, str], list[float]], seconds: float, share: float | None) -> None:
    assert others_share(record_of(values, seconds)) == (None if share is None else pytest.approx(share, abs=1e-9))


def test_what_is_left_open_has_a_reason() -> None:
    assert explain_missing(record_of(of_cpu(0.5, 0.5))) == {}
    short = record_of({**of_cpu(0.5, 0.5, 0.1), (CLOCK, "gpu"): [float("nan")] * COUNT}, 0.1)
    assert set(explain_missing(short)) == {"load of the CPU", "clock_mhz of gpu"}


def test_nothing_known_is_nothing_wrong() -> None:
    for count in (0, 1):
        record = Record(seconds=np.zeros(count), values={(CLOCK, "cpu0"): np.full(count, np.nan)})
        assert find_disturbances(record, gpu=False) == []
        assert find_prior_load(record, gpu=True) == []
        assert json.loads(json.dumps(summary(record)))["clocks_mhz"] == {}


def test_the_summary_is_json_with_all_that_answered() -> None:
    record = record_of(
        {
            (CLOCK, "cpu0"): ramp(1000, 3000),
            (TEMPERATURE, "cpu-thermal"): [40.0] * 50 + [60.0] + [45.0] * 50,
            (TEMPERATURE, "gpu-thermal"): [float("nan")] * COUNT,
            (POWER, "VDD_IN"): ramp(5, 7),
            (EVENTS, "oc1"): ramp(2, 3),
            (STATE, "alert"): [0.0] * COUNT,
            (GPU_LOAD, "gpu"): ramp(0, 100),
            **of_cpu(0.5, 0.5),
        }
    )
    assert json.loads(json.dumps(summary(record), allow_nan=False)) == {
        "clocks_mhz": {"cpu0": {"least": 1000, "median": 2000, "most": 3000}},
        "temperatures_c": {"cpu-thermal": {"first": 40, "last": 45, "most": 60}},
        "rails_w": {"VDD_IN": {"least": 5, "median": 6, "most": 7}},
        "throttle_events": {"oc1": 1},
        "throttle_states": {"alert": 0},
        "cpu_of_others": pytest.approx(0, abs=1e-9),
        "gpu_load_percent": {"gpu": 50},
    }
