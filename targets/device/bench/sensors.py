"""Everything that this machine tells of its power, clocks, heat and load."""

from __future__ import annotations

from pathlib import Path

from targets.device.sensors.cpu import find_processor, find_rapl
from targets.device.sensors.gauge import Sensors
from targets.device.sensors.ina import find_rails
from targets.device.sensors.jetson import find_jetson, is_jetson
from targets.device.sensors.thermal import find_thermal

ROOT = Path("/")


def find_sensors(root: Path = ROOT, *, gpu: bool) -> Sensors:
    """What can be read below `root`; with `gpu` NVML is asked, too. Close it after use."""
    sensors = Sensors()
    find_processor(root, sensors)
    find_thermal(root, sensors)
    if is_jetson(root):
        find_rails(root, sensors)
        find_jetson(root, sensors)
    if gpu:
        # An image of ONNX Runtime runs nothing on a GPU, and has no code for it.
        from targets.device.sensors.nvml import find_nvml

        find_nvml(sensors)
    find_rapl(root, sensors)
    return sensors
