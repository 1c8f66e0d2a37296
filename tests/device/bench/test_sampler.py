import math
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from targets.device.bench.sampler import Record, Sampler
from targets.device.sensors.gauge import CLOCK, ENERGY, POWER, Sensors, Source, SwitchedOff, Unreadable


def sensors_of(*gauges: tuple[str, str, Callable[[], float]]) -> Sensors:
    sensors = Sensors()
    for kind, name, read in gauges:
        assert sensors.add(kind, name, read)
    return sensors


def record_of(seconds: list[float], **values: list[float]) -> Record:
    """`power_a` is the gauge a of that kind."""
    kinds = {"power": POWER, "energy": ENERGY}
    split = {tuple(name.split("_", 1)): numbers for name, numbers in values.items()}
    return Record(
        seconds=np.array(seconds), values={(kinds[kind], name): np.array(v) for (kind, name), v in split.items()}
    )


MODULE = Source("module", "", POWER, ("a", "b"))
COUNTER = Source("cpu", "", ENERGY, ("a",))


def test_it_reads_at_its_rate_by_a_thread_of_its_own() -> None:
    threads = set()

    def read() -> float:
        threads.add(threading.get_ident())
        return 1.0

    sensors = sensors_of((CLOCK, "a", read))
    with Sampler(sensors, hertz=50) as sampler:
        start = time.perf_counter()
        time.sleep(0.5)
        record = sampler.between(start, time.perf_counter())
    # On a busy machine fewer, never more.
    assert 2 <= len(record.seconds) <= 28
    assert len(threads - {threading.get_ident()}) == 1
    assert 0 < sampler.reading_seconds < 0.5
    left = len(sampler.between(start, math.inf).seconds)
    time.sleep(0.1)
    assert len(sampler.between(start, math.inf).seconds) == left


def test_a_span_holds_its_readings_alone() -> None:
    values = iter(range(1000))
    with Sampler(sensors_of((CLOCK, "a", lambda: float(next(values)))), hertz=100) as sampler:
        time.sleep(0.2)
        middle = time.perf_counter()
        time.sleep(0.2)
    early, late = sampler.between(0, middle), sampler.between(middle, math.inf)
    assert early.of(CLOCK)["a"].max() < late.of(CLOCK)["a"].min()
    assert (early.seconds <= middle).all()
    assert len(sampler.between(-2, -1).seconds) == 0
    assert sampler.between(-2, -1).of(CLOCK) == {}


def test_a_sensor_that_fails_leaves_a_gap_and_the_others_alone() -> None:
    answers = iter([1.0] + [None, 2.0] * 1000)

    def moody() -> float:
        answer = next(answers)
        if answer is None:
            raise SwitchedOff("not now.")
        return answer

    def off() -> float:
        raise SwitchedOff("it is off.")

    with Sampler(sensors_of((CLOCK, "moody", moody), (CLOCK, "off", off)), hertz=100) as sampler:
        time.sleep(0.3)
    record = sampler.between(0, math.inf)
    assert np.isnan(record.values[(CLOCK, "moody")]).any()
    assert set(record.of(CLOCK)) == {"moody"}
    assert set(record.of(CLOCK)["moody"]) == {2.0}
    assert list(record.silent()) == ["clock_mhz of off"]


def test_power_is_the_mean_over_time_of_the_sum() -> None:
    # 1 s at 10 W, then a rise to 30 W over 3 s: 10 J and 60 J; unevenly sampled.
    record = record_of([0, 1, 1.5, 4], power_a=[10, 10, 10 + 20 / 6, 30], power_b=[0, 0, 0, 0])
    assert record.watts(MODULE) == pytest.approx(70 / 4)
    two = record_of([0, 1], power_a=[3, 3], power_b=[4, 4])
    assert two.watts(MODULE) == 7


def test_a_counter_is_energy_over_time_and_gaps_are_left_out() -> None:
    assert record_of([5, 6, 9], energy_a=[100, 1, 180]).watts(COUNTER) == 20
    assert record_of([5, 6, 9, 10], energy_a=[math.nan, 100, 160, math.nan]).watts(COUNTER) == 20


@pytest.mark.parametrize(
    ("record", "source", "message"),
    [
        (record_of([1], energy_a=[5]), COUNTER, "cpu was read 1 times"),
        (record_of([1, 2], energy_a=[5, math.nan]), COUNTER, "cpu had 1 valid readings"),
        (record_of([1, 3], energy_a=[5, 5]), COUNTER, r"the counter of cpu did not change in 2\.0 s"),
        (record_of([1, 2], power_a=[5, 5]), MODULE, "module was read 2 times"),
    ],
)
def test_too_little_to_tell_is_no_figure(record: Record, source: Source, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        record.watts(source)


def test_the_shortest_run_has_a_reading_at_its_end() -> None:
    with Sampler(sensors_of((CLOCK, "a", lambda: 1.0)), hertz=0.01) as sampler:
        start = time.perf_counter()
    assert len(sampler.between(start, math.inf).seconds) >= 1
    assert 1 <= len(sampler.between(0, math.inf).seconds) <= 2


def test_it_ends_when_the_run_fails() -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="of the model"), Sampler(sensors_of((CLOCK, "a", lambda: 1.0))):
        raise RuntimeError("of the model")
    assert threading.active_count() == before
