from pathlib import Path

import pytest
from machine_files import AGX_ORIN_JETPACK_6, PC, RASPBERRY_PI, THOR, write_files, zones

from targets.device.sensors.gauge import EVENTS, STATE, TEMPERATURE, Sensors
from targets.device.sensors.thermal import find_thermal


def found(root: Path) -> Sensors:
    sensors = Sensors()
    find_thermal(root, sensors)
    return sensors


def values(sensors: Sensors, kind: str) -> dict[str, float]:
    return {gauge.name: gauge.read() for gauge in sensors.gauges if gauge.kind == kind}


def test_thermal_zones_by_their_type(tmp_path: Path) -> None:
    orin = values(found(write_files(tmp_path / "orin", AGX_ORIN_JETPACK_6)), TEMPERATURE)
    assert orin == pytest.approx({"cpu-thermal": 48.5, "gpu-thermal": 46.0, "tj-thermal": 49.0})
    twins = {**zones(acpitz=20.0, x=21.0), "sys/class/thermal/thermal_zone1/type": "acpitz\n"}
    assert values(found(write_files(tmp_path / "twins", twins)), TEMPERATURE) == {"acpitz": 20.0, "acpitz 2": 21.0}


def test_a_pc_has_the_sensor_of_its_cpu(tmp_path: Path) -> None:
    assert values(found(write_files(tmp_path, PC)), TEMPERATURE) == {"k10temp": 44.25}


def test_cooling_devices_that_cut_clocks_are_states_and_fans_are_not(tmp_path: Path) -> None:
    assert values(found(write_files(tmp_path / "thor", THOR)), STATE) == {
        "gpu-throttle-alert": 1,
        "devfreq-gpu-gpc-0": 18,
    }
    assert values(found(write_files(tmp_path / "pc", PC)), STATE) == {
        "Processor (cooling_device0)": 0,
        "Processor (cooling_device1)": 0,
        # Off.
        "intel_powerclamp": -1,
    }


def test_counters_of_cores_add_up_and_the_packages_are_the_same_one(tmp_path: Path) -> None:
    assert values(found(write_files(tmp_path, PC)), EVENTS) == {"cores": 7, "package": 7}


def test_a_raspberry_pi_tells_what_holds_now(tmp_path: Path) -> None:
    sensors = found(write_files(tmp_path, RASPBERRY_PI))
    # 0x50005: under-voltage and throttled, now and since it started.
    assert values(sensors, STATE) == {"cpufreq-cpu0": 0, "firmware (under-voltage, cap, heat)": 5}
    write_files(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": "50000\n"})
    assert values(sensors, STATE)["firmware (under-voltage, cap, heat)"] == 0


def test_a_machine_that_tells_nothing_says_so(tmp_path: Path) -> None:
    sensors = found(tmp_path)
    assert sensors.gauges == []
    assert set(sensors.missing) == {"temperature", "throttling"}
