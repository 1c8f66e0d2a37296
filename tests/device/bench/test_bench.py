"""Measuring a model: a real one, sessions whose speed is known, machines whose files are written beside the run."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_server import device, python
from machine_files import AGX_ORIN_JETPACK_6, ORIN_NANO, PC, write_files
from numpy.typing import NDArray
from tiny_artifact import write_tiny_artifact

from targets.device.bench import bench as module
from targets.device.bench.bench import WINDOW_RUNS, bench
from targets.device.bench.statistics import MIN_RUNS, WINDOWS
from targets.device.open_session import open_session

Array = NDArray[np.float32]
SHAPE = (1, 3, 8, 8)


class Sleeping:
    """Answers after so many seconds, which the number of the run may change."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds = seconds
        self.runs = 0

    def infer(self, images: Array) -> Array:
        time.sleep(self.seconds(self.runs))
        self.runs += 1
        return images


class Clock:
    """Time that passes in the session alone, so that no other program can change a latency."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Timed:
    """Takes so many milliseconds of a `Clock`, by the number of the run and a seeded noise."""

    def __init__(self, clock: Clock, milliseconds: Callable[[int], float]) -> None:
        self.clock = clock
        self.milliseconds = milliseconds
        self.random = np.random.default_rng(3)
        self.runs = 0

    def infer(self, images: Array) -> Array:
        self.clock.now += self.milliseconds(self.runs) * (1 + 0.01 * self.random.standard_normal()) * 1e-3
        self.runs += 1
        return images


class OnGpu(Timed):
    """Has events, too; half of the time is copies."""

    least_batch = 1

    def gpu_ms(self, runs: int) -> list[float]:
        before = self.clock.now
        for _ in range(runs):
            self.infer(np.empty(0, np.float32))
        spent = (self.clock.now - before) / runs * 1e3 / 2
        return [spent * (1 + 0.01 * noise) for noise in self.random.standard_normal(runs)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@contextmanager
def rising(path: Path, per_second: float, start: float, text: str = "{}\n") -> Iterator[None]:
    """A counter in a file, with `text` around it, that goes up by so much a second while the block runs."""
    stop = threading.Event()
    began = time.perf_counter()

    def write() -> None:
        fresh = path.with_name(f"{path.name}.new")
        while not stop.wait(0.005):
            fresh.write_text(text.format(f"{start + per_second * (time.perf_counter() - began):.0f}"))
            # At once, as the kernel's files are: a half-written one would be no number.
            fresh.replace(path)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def checked(found: dict[str, Any]) -> dict[str, Any]:
    """What holds whatever was measured."""
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["schema"] == 1
    assert found["stable"] is (not found["reasons"])
    latency = found["latency_ms"]
    assert 0 < latency["least"] <= latency["p50"] <= latency["p90"]
    assert (latency["p99"] is None) is (found["runs"] < MIN_RUNS)
    assert found["images_per_second"] == pytest.approx(found["shape"][0] * found["runs"] / found["seconds"])
    assert 1 <= len(found["windows_p50_ms"]) <= WINDOWS
    assert all(found["missing"].values())
    return found


def test_a_real_model_on_this_machine(tmp_path: Path) -> None:
    manifest = write_tiny_artifact(tmp_path)
    with open_session(tmp_path, manifest) as session:
        found = checked(bench(session, shape=(2, *manifest.input_shape), seconds=1.0, limit=3.0))
    assert found["shape"] == [2, *manifest.input_shape]
    assert found["runs"] >= MIN_RUNS
    assert found["seconds"] == pytest.approx(1.0, rel=0.5)
    assert found["warm_up"]["runs"] > 0
    assert found["gpu_ms"] is None
    assert found["latency_ms"]["p90"] <= found["latency_ms"]["p99"]
    assert found["sampling"]["readings"] >= 2
    # The readings do not take a tenth of a CPU from what they watch.
    assert found["sampling"]["cpu_share"] < 0.1
    assert found["conditions"]["cpu_of_others"] is not None


def test_a_steady_model_is_measured_once_and_its_first_window_is_warm_up(clock: Clock, tmp_path: Path) -> None:
    session = Timed(clock, lambda run: 500.0 if run == 0 else 2.0)
    found = checked(bench(session, shape=SHAPE, seconds=5.0, root=tmp_path))
    assert (found["stable"], found["reasons"]) == (True, [])
    assert found["seconds"] == pytest.approx(5.0, rel=0.01)
    assert found["runs"] == pytest.approx(2500, rel=0.01)
    assert found["latency_ms"]["p50"] == pytest.approx(2.0, rel=0.01)
    assert found["latency_ms"]["p99"] == pytest.approx(2.0 * (1 + 0.01 * 2.326), rel=0.005)
    # The run of half a second is not in it.
    assert found["latency_ms"]["mean"] == pytest.approx(2.0, rel=0.01)
    assert found["warm_up"]["runs"] == session.runs - found["runs"]


def test_a_model_that_warms_up_is_measured_when_it_has(clock: Clock, tmp_path: Path) -> None:
    session = Timed(clock, lambda run: 2.0 + 2.0 * max(0.0, 1 - run / 2000))
    found = checked(bench(session, shape=SHAPE, seconds=2.0, limit=60.0, root=tmp_path))
    assert found["stable"]
    assert found["latency_ms"]["p50"] == pytest.approx(2.0, rel=0.02)
    assert 1500 < found["warm_up"]["runs"] < 3000


@pytest.mark.parametrize(
    ("milliseconds", "reason"),
    [
        pytest.param(lambda run: 2.0 * 1.0001**run, "still drifting: +", id="drift"),
        pytest.param(lambda run: 2.0 + (run // 150) % 2, "the level changes", id="two levels"),
    ],
)
def test_a_model_that_never_settles_is_unstable_when_the_time_is_over(
    clock: Clock, tmp_path: Path, milliseconds: Callable[[int], float], reason: str
) -> None:
    began = clock.now
    found = checked(bench(Timed(clock, milliseconds), shape=SHAPE, seconds=2.0, limit=8.0, root=tmp_path))
    assert not found["stable"]
    assert found["reasons"][0] == "no stable window within 8 s"
    assert any(reason in text for text in found["reasons"])
    assert found["runs"] > MIN_RUNS
    # Idle, the limit, and one run beyond it.
    assert clock.now - began < 10.1


def test_a_slow_model_gets_longer_windows(clock: Clock, tmp_path: Path) -> None:
    found = checked(bench(Timed(clock, lambda run: 100.0), shape=SHAPE, seconds=10.0, root=tmp_path))
    assert found["stable"]
    assert found["runs"] == WINDOWS * WINDOW_RUNS
    assert found["seconds"] == pytest.approx(30.0, rel=0.01)


def test_too_few_runs_have_no_99th_percentile_and_say_so(clock: Clock, tmp_path: Path) -> None:
    found = checked(bench(Timed(clock, lambda run: 1000.0), shape=SHAPE, seconds=10.0, root=tmp_path))
    assert found["latency_ms"]["p99"] is None
    assert not found["stable"]
    # The first of three windows is warm-up, the last is cut off by the limit of 60 s.
    assert "only 2 of 10 windows fit into the time; allow more seconds" in found["reasons"]
    assert "31 runs are too few for the 99th percentile, which needs 299" in found["reasons"]
    assert found["warm_up"]["runs"] == 30


def test_the_gpu_is_timed_by_its_events(clock: Clock, tmp_path: Path) -> None:
    found = checked(bench(OnGpu(clock, lambda run: 2.0), shape=SHAPE, seconds=4.0, root=tmp_path))
    assert found["stable"]
    assert found["latency_ms"]["p50"] == pytest.approx(2.0, rel=0.01)
    assert found["gpu_ms"]["p50"] == pytest.approx(1.0, rel=0.01)
    assert found["gpu_ms"]["runs"] >= MIN_RUNS
    assert "NVML" in found["missing"]
    wide = checked(bench(OnGpu(clock, lambda run: 2.0), shape=(4, 3, 8, 8), seconds=4.0, root=tmp_path))
    assert wide["gpu_ms"] is None
    assert "minimum batch, 1, is timed with events; this is 4" in wide["missing"]["gpu_ms"]
    slowing = OnGpu(clock, lambda run: 2.0 if run < 2400 else 2.0 * 1.001 ** (run - 2400))
    found = checked(bench(slowing, shape=SHAPE, seconds=4.0, root=tmp_path))
    assert any(reason.startswith("on the GPU alone, ") for reason in found["reasons"])


def test_energy_of_a_counter_is_that_of_the_runs(tmp_path: Path) -> None:
    """20 W for runs of 4 ms and more are 80 mJ and more each, whatever else this machine does."""
    root = write_files(tmp_path, PC)
    with rising(root / "sys/class/powercap/intel-rapl:0/energy_uj", 20e6, 1e6):
        found = checked(bench(Sleeping(lambda run: 0.004), shape=SHAPE, seconds=2.0, limit=4.0, root=root))
    energy = found["energy"]
    assert (energy["source"], energy["method"]) == ("cpu", "counter")
    assert energy["mean_w"] == pytest.approx(20, rel=0.05)
    assert energy["idle_w"] == pytest.approx(20, rel=0.05)
    assert energy["joules_per_inference"] == pytest.approx(
        energy["mean_w"] * found["latency_ms"]["mean"] * 1e-3, rel=0.05
    )
    assert abs(energy["above_idle"]) < 0.1 * energy["joules_per_inference"]


def test_a_jetson_has_all_of_it(tmp_path: Path) -> None:
    root = write_files(tmp_path, AGX_ORIN_JETPACK_6)
    found = checked(bench(Sleeping(lambda run: 0.003), shape=SHAPE, seconds=1.0, limit=2.0, root=root))
    energy = found["energy"]
    assert (energy["source"], energy["method"], energy["mean_w"]) == ("module", "sampled", pytest.approx(13.5))
    assert energy["above_idle"] == pytest.approx(0)
    conditions = found["conditions"]
    assert conditions["facts"]["power mode"] == "2 (MODE_30W)"
    assert conditions["clocks_mhz"]["gpu"] == {"least": 816, "median": 816, "most": 816}
    assert conditions["temperatures_c"]["tj-thermal"] == {"first": 49, "last": 49, "most": 49}
    assert conditions["rails_w"]["VDD_CPU_CV"]["median"] == pytest.approx(1.9)
    assert conditions["throttle_events"]["oc3 (instantaneous over-current)"] == 0
    assert not [reason for reason in found["reasons"] if "clock" in reason or "temperature" in reason]


def test_power_of_a_machine_that_was_busy_before_is_not_called_idle(tmp_path: Path) -> None:
    root = write_files(tmp_path, {**ORIN_NANO, "proc/stat": "cpu  0 0 0 0 0 0 0 0\n"})
    # Every CPU of any machine, taken by others from the first moment on.
    ticks = os.sysconf("SC_CLK_TCK") * (os.cpu_count() or 1)
    with rising(root / "proc/stat", ticks, 0, "cpu  {} 0 0 0 0 0 0 0\n"):
        found = checked(bench(Sleeping(lambda run: 0.002), shape=SHAPE, seconds=1.0, limit=1.5, root=root))
    assert found["energy"]["idle_w"] is None
    assert found["energy"]["above_idle"] is None
    assert found["energy"]["joules_per_inference"] > 0
    assert "not idle: other programs used" in found["missing"]["idle power"]
    assert any("other programs used" in reason for reason in found["reasons"])


def test_throttling_in_the_window_is_told(tmp_path: Path) -> None:
    root = write_files(tmp_path, ORIN_NANO)
    counter = root / "sys/devices/platform/soctherm-oc-event/hwmon/hwmon3/oc3_event_cnt"
    with rising(counter, 50, 0):
        found = checked(bench(Sleeping(lambda run: 0.002), shape=SHAPE, seconds=1.0, limit=2.0, root=root))
    assert not found["stable"]
    throttled = "clocks were throttled: oc3 (instantaneous over-current) counted"
    assert any(throttled in reason for reason in found["reasons"])


def test_no_source_is_no_energy_and_the_reason(tmp_path: Path) -> None:
    found = checked(bench(Sleeping(lambda run: 0.002), shape=SHAPE, seconds=0.5, limit=1.0, root=tmp_path))
    assert (found["energy"], found["energy_sources"]) == (None, [])
    assert "there is no RAPL zone" in found["missing"]["energy of the CPU"]
    still = write_files(tmp_path / "still", PC)
    found = checked(bench(Sleeping(lambda run: 0.002), shape=SHAPE, seconds=0.5, limit=1.0, root=still))
    assert found["energy"] is None
    assert "did not change" in found["missing"]["energy of cpu"]


def test_what_the_session_raises_comes_out_and_no_thread_stays(tmp_path: Path) -> None:
    manifest = write_tiny_artifact(tmp_path)
    before = threading.active_count()
    with open_session(tmp_path, manifest) as session, pytest.raises(ValueError, match="the model's input is float32"):
        bench(session, shape=(1, 3, 5, 5), seconds=0.5)
    assert threading.active_count() == before


def test_it_needs_no_part_of_numpy_that_images_leave_out(tmp_path: Path) -> None:
    """Latencies of two levels go through every test there is."""
    gone = ("numpy.ma", "numpy.random", "numpy.fft", "numpy.polynomial", "numpy.testing")
    code = (
        "import sys, time\n"
        f"sys.modules.update(dict.fromkeys({gone}))\n"
        "from pathlib import Path\n"
        "from targets.device.bench.bench import bench\n"
        "class Model:\n"
        "    runs = 0\n"
        "    def infer(self, images):\n"
        "        self.runs += 1\n"
        "        time.sleep(0.001 + 0.004 * (self.runs // 40 % 2))\n"
        "print(bench(Model(), shape=(1, 3, 8, 8), seconds=0.3, limit=1.0, root=Path(sys.argv[1]))['stable'])"
    )
    done = python("-c", code, str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_the_command_prints_one_document_and_its_status_tells_of_stability(tmp_path: Path) -> None:
    manifest = write_tiny_artifact(tmp_path)
    done = device("bench", "0.5", MODEL_FOLDER=tmp_path)
    assert done.stderr == ""
    found = checked(json.loads(done.stdout))
    assert done.returncode == (0 if found["stable"] else 1)
    assert found["shape"] == [1, *manifest.input_shape]


@pytest.mark.parametrize("seconds", ["0", "-1", "many", "nan", "inf", "3601"])
def test_wrong_seconds_are_named(tmp_path: Path, seconds: str) -> None:
    done = device("bench", seconds, MODEL_FOLDER=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: SECONDS is '{seconds}'; it must be a number from 0.1 to 3600\n"


def test_no_model_to_measure_is_another_status(tmp_path: Path) -> None:
    done = device("bench", MODEL_FOLDER=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"error: {tmp_path} is not an artifact: it has no manifest.json.\n"
