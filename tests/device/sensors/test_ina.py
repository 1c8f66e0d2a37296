import math
from pathlib import Path

import pytest
from machine_files import (
    AGX_ORIN_JETPACK_6,
    AGX_XAVIER_JETPACK_5,
    ORIN_NANO,
    THOR,
    ina3221,
    write_files,
)

from targets.device.sensors.gauge import POWER, Sensors, Source
from targets.device.sensors.ina import find_rails


def rails_of(root: Path) -> Sensors:
    sensors = Sensors()
    find_rails(root, sensors)
    assert {gauge.kind for gauge in sensors.gauges} <= {POWER}
    return sensors


@pytest.mark.parametrize(
    ("files", "rails", "total", "covers"),
    [
        pytest.param(
            AGX_ORIN_JETPACK_6,
            {"VDD_GPU_SOC": 7.6, "VDD_CPU_CV": 1.9, "VIN_SYS_5V0": 4.0, "VDDQ_VDD2_1V8AO": 0.4},
            # The fourth is fed from the third.
            13.5,
            "sum of its rails",
            id="AGX Orin",
        ),
        pytest.param(
            ORIN_NANO, {"VDD_IN": 6.0, "VDD_CPU_GPU_CV": 2.0, "VDD_SOC": 1.5}, 6.0, "at its input", id="Orin Nano"
        ),
        pytest.param(
            AGX_XAVIER_JETPACK_5,
            {"GPU": 0.76, "CPU": 0.57, "SOC": 1.14, "CV": 0.0, "VDDRQ": 0.38, "SYS5V": 2.0},
            4.85,
            "AGX Xavier",
            id="AGX Xavier",
        ),
        pytest.param(
            THOR,
            {"VDD_GPU": 0.0, "VDD_CPU_SOC_MSS": 6.0, "VIN_SYS_5V0": 6.5, "VIN": 23.1},
            23.1,
            "carrier board",
            id="Thor",
        ),
    ],
)
def test_rails_in_watts_and_what_adds_up(
    tmp_path: Path, files: dict[str, str], rails: dict[str, float], total: float, covers: str
) -> None:
    sensors = rails_of(write_files(tmp_path, files))
    found = {gauge.name: gauge.read() for gauge in sensors.gauges}
    assert found == pytest.approx(rails)
    (source,) = sensors.sources
    assert (source.name, source.kind) == ("module", POWER)
    assert math.fsum(found[name] for name in source.gauges) == pytest.approx(total)
    assert covers in source.covers
    assert sensors.missing == {}


def test_a_thor_without_its_input_sensor_adds_up_its_rails(tmp_path: Path) -> None:
    sensors = rails_of(write_files(tmp_path, {name: text for name, text in THOR.items() if "ina238" not in name}))
    assert sensors.sources[0].gauges == ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")


def test_rails_that_are_not_known_are_not_added_up(tmp_path: Path) -> None:
    sensors = rails_of(write_files(tmp_path, ina3221("7-0040/hwmon/hwmon9", ("VDD_A", 5000, 100), ("VDD_B", 5000, 1))))
    assert [gauge.name for gauge in sensors.gauges] == ["VDD_A", "VDD_B"]
    assert sensors.sources == []
    assert "VDD_A, VDD_B" in sensors.missing["power of the module"]


def test_a_rail_that_cannot_be_read_leaves_no_total(tmp_path: Path) -> None:
    files = dict(ORIN_NANO)
    del files["sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr1_input"]
    sensors = rails_of(write_files(tmp_path, files))
    assert list[Source](sensors.sources) == []
    assert "curr1_input does not exist" in sensors.missing["power of VDD_IN"]
    assert "not a known set whose sum is the module's power" in sensors.missing["power of the module"]


def test_no_chip_is_said(tmp_path: Path) -> None:
    assert "there is no rail of an INA3221" in rails_of(tmp_path).missing["power of the module"]
