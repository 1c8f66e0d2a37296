from pathlib import Path

import pytest
from machine_files import (
    AGX_ORIN_JETPACK_6,
    AGX_XAVIER_JETPACK_5,
    ORIN_NANO,
    PC,
    RASPBERRY_PI,
    THOR,
    nvpmodel,
    write_files,
)

from targets.device.sensors.gauge import CLOCK, EVENTS, GPU_LOAD, Sensors, Unreadable
from targets.device.sensors.jetson import find_jetson, is_jetson, power_mode


def found(root: Path) -> Sensors:
    sensors = Sensors()
    find_jetson(root, sensors)
    return sensors


def values(sensors: Sensors, kind: str) -> dict[str, float]:
    return {gauge.name: gauge.read() for gauge in sensors.gauges if gauge.kind == kind}


@pytest.mark.parametrize("files", [AGX_ORIN_JETPACK_6, AGX_XAVIER_JETPACK_5, THOR])
@pytest.mark.parametrize("seen", ["proc/", "sys/devices/soc0", "sys/class/devfreq"])
def test_a_jetson_is_known_by_whatever_of_it_is_seen(tmp_path: Path, files: dict[str, str], seen: str) -> None:
    assert is_jetson(write_files(tmp_path, {name: text for name, text in files.items() if name.startswith(seen)}))


@pytest.mark.parametrize("files", [PC, RASPBERRY_PI])
def test_other_machines_are_no_jetson(tmp_path: Path, files: dict[str, str]) -> None:
    assert not is_jetson(write_files(tmp_path, files))


@pytest.mark.parametrize(
    ("files", "clocks", "load"),
    [
        pytest.param(AGX_ORIN_JETPACK_6, {"gpu": 816.0, "emc": 3199.0}, {"gpu": 12.5}, id="AGX Orin"),
        pytest.param(ORIN_NANO, {"gpu": 624.75}, {"gpu": 12.5}, id="Orin Nano"),
        pytest.param(AGX_XAVIER_JETPACK_5, {"gpu": 114.75}, {"gpu": 0.0}, id="AGX Xavier"),
        pytest.param(THOR, {"gpu": 1575.0}, {}, id="Thor"),
    ],
)
def test_clocks_and_load_of_the_gpu(
    tmp_path: Path, files: dict[str, str], clocks: dict[str, float], load: dict[str, float]
) -> None:
    sensors = found(write_files(tmp_path, files))
    assert values(sensors, CLOCK) == pytest.approx(clocks)
    assert values(sensors, GPU_LOAD) == pytest.approx(load)
    assert ("load of the GPU" in sensors.missing) is (not load)
    assert ("clock of the memory (emc)" in sensors.missing) is ("emc" not in clocks)
    assert sensors.facts["GPU most clock"] == "1300 MHz"
    assert sensors.facts["GPU governor"] == "nvhost_podgov"


def test_over_current_events_by_what_they_count(tmp_path: Path) -> None:
    assert values(found(write_files(tmp_path / "orin", AGX_ORIN_JETPACK_6)), EVENTS) == {
        "oc1 (under-voltage)": 0,
        "oc2 (average over-current)": 0,
        "oc3 (instantaneous over-current)": 4,
    }
    xavier = found(write_files(tmp_path / "xavier", AGX_XAVIER_JETPACK_5))
    assert values(xavier, EVENTS) == {}
    assert "no counter" in xavier.missing["over-current events"]


def test_the_power_mode_has_a_number_and_a_name(tmp_path: Path) -> None:
    assert power_mode(write_files(tmp_path / "orin", AGX_ORIN_JETPACK_6)) == "2 (MODE_30W)"
    assert power_mode(write_files(tmp_path / "nano", ORIN_NANO)) == "0 (15W)"
    # Another mode's number that merely begins alike is not it.
    assert power_mode(write_files(tmp_path / "many", nvpmodel(1, *(f"M{index}" for index in range(12))))) == "1 (M1)"
    # A mode that the file does not have.
    assert power_mode(write_files(tmp_path / "xavier", AGX_XAVIER_JETPACK_5)) == "7"
    write_files(tmp_path / "status", {"var/lib/nvpmodel/status": "pmode:0003 fmode:quiet\n"})
    assert power_mode(tmp_path / "status") == "3"


def test_without_its_file_there_is_no_power_mode_but_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"status does not exist\. In a container, mount /var/lib/nvpmodel and"):
        power_mode(tmp_path)
    write_files(tmp_path, {"var/lib/nvpmodel/status": "unset\n"})
    with pytest.raises(Unreadable, match="contains 'unset', not pmode"):
        power_mode(tmp_path)


def test_what_an_empty_machine_lacks_is_named(tmp_path: Path) -> None:
    sensors = found(tmp_path)
    assert sensors.gauges == []
    assert {"power mode", "clock of the GPU", "clock of the memory (emc)", "over-current events"} <= set(
        sensors.missing
    )
