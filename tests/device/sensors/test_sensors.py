import subprocess
import sys
from pathlib import Path

import pytest
from machine_files import MACHINES, write_files

from targets.device.bench.sampler import find_sensors
from targets.device.sensors.gauge import CLOCK, ENERGY, POWER, STATE, TEMPERATURE

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", MACHINES)
def test_every_machine_gives_figures_or_reasons(tmp_path: Path, name: str) -> None:
    sensors = find_sensors(write_files(tmp_path, MACHINES[name]), gpu=False)
    kinds = {gauge.kind for gauge in sensors.gauges}
    assert {CLOCK, TEMPERATURE} <= kinds
    assert (
        STATE in kinds
        or "over-current events" in sensors.missing
        or "oc1 (under-voltage)" in {gauge.name for gauge in sensors.gauges}
    )
    names = [(gauge.kind, gauge.name) for gauge in sensors.gauges]
    assert len(set(names)) == len(names)
    for source in sensors.sources:
        assert {(source.kind, gauge) for gauge in source.gauges} <= set(names)
    assert all(reason.endswith(".") and len(reason) > 20 for reason in sensors.missing.values())
    if name == "raspberry-pi":
        assert not kinds & {POWER, ENERGY}
        assert "energy of the CPU" in sensors.missing
    else:
        assert [source.name for source in sensors.sources] == ["cpu" if name == "pc" else "module"]


def test_a_machine_that_tells_nothing_gives_reasons_alone(tmp_path: Path) -> None:
    sensors = find_sensors(tmp_path, gpu=False)
    assert [gauge.name for gauge in sensors.gauges] == []
    assert sensors.sources == []
    assert {"clock of the CPU", "load of the CPU", "temperature", "throttling", "energy of the CPU"} <= set(
        sensors.missing
    )


def test_an_image_without_the_code_of_tensorrt_can_measure() -> None:
    code = (
        "import sys\n"
        "for name in ('sensors.nvml', 'nvidia.cudart', 'nvidia.machine', 'tensorrt.passport'):\n"
        "    sys.modules[f'targets.device.{name}'] = None\n"
        "from targets.device.bench.bench import bench\n"
        "from targets.device.bench.sampler import find_sensors\n"
        "print(len(find_sensors(gpu=False).gauges) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "True", "")
