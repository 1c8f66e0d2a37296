import os
import time
from pathlib import Path

import pytest
from machine_files import AGX_ORIN_JETPACK_6, PC, policies, write_files

from targets.device.sensors.cpu import busy_seconds, find_processor, find_rapl
from targets.device.sensors.gauge import CLOCK, CPU_TIME, ENERGY, Sensors, Unreadable

ZONE = "sys/class/powercap/intel-rapl:0"


def found(root: Path) -> Sensors:
    sensors = Sensors()
    find_processor(root, sensors)
    find_rapl(root, sensors)
    return sensors


def values(sensors: Sensors, kind: str) -> dict[str, float]:
    return {gauge.name: gauge.read() for gauge in sensors.gauges if gauge.kind == kind}


def test_clocks_of_the_policies(tmp_path: Path) -> None:
    orin = found(write_files(tmp_path / "orin", AGX_ORIN_JETPACK_6))
    assert values(orin, CLOCK) == pytest.approx({"cpu0": 2201.6, "cpu4": 729.6, "cpu8": 729.6})
    assert orin.facts["CPU governor"] == "schedutil"
    assert (orin.facts["CPU least clock"], orin.facts["CPU most clock"]) == ("115 MHz", "2202 MHz")
    pc = found(write_files(tmp_path / "pc", PC))
    assert list(values(pc, CLOCK)) == ["cpu0", "cpu1", "cpu2", "cpu10"]
    assert pc.facts["CPU boost"] == "on"


def test_policies_that_differ_are_told_apart(tmp_path: Path) -> None:
    write_files(tmp_path, policies({0: 1, 1: 1}, governor="performance", most=2_000_000))
    write_files(tmp_path, policies({4: 1}, governor="powersave", most=2_400_000))
    facts = found(tmp_path).facts
    assert facts["CPU governor"] == "performance (cpu0 cpu1), powersave (cpu4)"
    assert facts["CPU most clock"] == "2000 MHz (cpu0 cpu1), 2400 MHz (cpu4)"


def test_busy_time_is_all_but_idle_and_waiting(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    write_files(tmp_path, {"proc/stat": "cpu  100 10 200 5000 700 3 4 50 999 999\ncpu0 1 1\n"})
    # user, nice, system, irq, softirq and steal; what guests took is in user already.
    assert busy_seconds(tmp_path) == (100 + 10 + 200 + 3 + 4 + 50) / ticks
    for wrong in ("", "cpu 1 2 3\n", "intr 1 2 3 4 5 6 7 8\n", "cpu a b c d e f g h\n"):
        write_files(tmp_path, {"proc/stat": wrong})
        with pytest.raises(Unreadable, match="does not begin with the CPU's times"):
            busy_seconds(tmp_path)


def test_the_real_counters_of_this_machine_rise_with_work() -> None:
    sensors = found(Path("/"))
    (every, own) = (gauge for gauge in sensors.gauges if gauge.kind == CPU_TIME)
    assert (every.name, own.name) == ("all", "own")
    before = every.read(), own.read()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    assert own.read() - before[1] >= 0.3
    # Ticks are of 10 ms; other programs can only add to it.
    assert every.read() - before[0] >= 0.2


def test_rapl_counts_packages_and_memory_apart(tmp_path: Path) -> None:
    sensors = found(write_files(tmp_path, PC))
    assert values(sensors, ENERGY) == pytest.approx({"package-0": 1.0, "dram (intel-rapl:0:2)": 0.2})
    (source,) = sensors.sources
    assert (source.name, source.kind, source.gauges) == ("cpu", ENERGY, ("package-0",))


def test_a_counter_that_starts_again_goes_on(tmp_path: Path) -> None:
    sensors = found(write_files(tmp_path, {**PC, f"{ZONE}/max_energy_range_uj": "5000000\n"}))
    gauge = next(gauge for gauge in sensors.gauges if gauge.name == "package-0")
    seen = []
    for microjoules in (1_500_000, 4_900_000, 100_000, 4_000_000, 1_000_000):
        write_files(tmp_path, {f"{ZONE}/energy_uj": f"{microjoules}\n"})
        seen.append(gauge.read())
    assert seen == pytest.approx([1.5, 4.9, 5.1, 9.0, 11.0])


def test_no_energy_has_a_reason(tmp_path: Path) -> None:
    assert "there is no RAPL zone" in found(tmp_path / "none").missing["energy of the CPU"]
    files = {name: text for name, text in PC.items() if not name.endswith("energy_uj")}
    sensors = found(write_files(tmp_path / "hidden", files))
    assert "energy_uj does not exist" in sensors.missing["energy of package-0"]
    assert sensors.sources == []
    # As in a container of Docker: the link is there, what it points to is hidden.
    (tmp_path / "masked" / "sys/class/powercap").mkdir(parents=True)
    (tmp_path / "masked" / ZONE).symlink_to("../../devices/virtual/powercap/intel-rapl/intel-rapl:0")
    assert "name does not exist" in found(tmp_path / "masked").missing["energy of intel-rapl:0"]


def test_a_virtual_machine_has_no_clocks_and_says_so(tmp_path: Path) -> None:
    sensors = found(write_files(tmp_path, {"proc/stat": PC["proc/stat"]}))
    assert values(sensors, CLOCK) == {}
    assert "no policies" in sensors.missing["clock of the CPU"]
    assert "CPU governor" not in sensors.facts
