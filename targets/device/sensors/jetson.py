"""Sensors of a Jetson: power mode, clock and load of the GPU, memory clock, over-current events."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable, Optional

from targets.device.sensors.gauge import CLOCK, EVENTS, GPU_LOAD, Sensors, Unreadable, by_number, number, reader, text

MODE_FILE = Path("var/lib/nvpmodel/status")
MODES_FILE = Path("etc/nvpmodel.conf")
# Names of the GPU below /sys/class/devfreq: Orin (JetPack 5, 6; 7), Xavier, Thor.
GPUS = ("*.ga10b", "*.gpu", "*.gv11b", "gpu-gpc-0")
SOC_FILE, TREE_FILE = Path("sys/devices/soc0/family"), Path("proc/device-tree/compatible")
DEVFREQ = Path("sys/class/devfreq")
EMC_FILE = Path("sys/kernel/debug/bpmp/debug/clk/emc/rate")
OC_EVENTS = ("under-voltage", "average over-current", "instantaneous over-current")


def is_jetson(root: Path) -> bool:
    """Detect a Jetson by the SoC's name; a container has neither the device tree nor the device's /etc."""
    for file, sign in ((SOC_FILE, "Tegra"), (TREE_FILE, "nvidia,tegra")):
        try:
            if sign in text(root / file):
                return True
        except Unreadable:
            continue
    return _gpu_folder(root / DEVFREQ) is not None


def find_jetson(root: Path, sensors: Sensors) -> None:
    """Add the sensors of this Jetson."""
    sensors.fact("power mode", lambda: power_mode(root))
    _find_gpu(root, sensors)
    sensors.add(CLOCK, "emc", reader(root / EMC_FILE, 1e-6), missing="clock of the memory (emc)")
    _find_over_current(root, sensors)


def power_mode(root: Path) -> str:
    """Return nvpmodel's mode number and name, e.g. "2 (MODE_30W)"; raise `Unreadable`."""
    try:
        kept = text(root / MODE_FILE)
    except Unreadable as reason:
        raise Unreadable(
            f"{reason} In a container, mount /{MODE_FILE.parent} and /{MODES_FILE} of the device, read-only."
        ) from None
    found = re.fullmatch(r"pmode:(\d+)(?:\s.*)?", kept, re.DOTALL)
    if found is None:
        raise Unreadable(f"{root / MODE_FILE} contains {kept[:40]!r}, not pmode: and a number.")
    mode = int(found[1])
    try:
        names = text(root / MODES_FILE)
    except Unreadable:
        return str(mode)
    name = re.search(rf"^\s*<\s*POWER_MODEL\s+ID=0*{mode}\s+NAME=([^\s>]+)", names, re.MULTILINE)
    return str(mode) if name is None else f"{mode} ({name[1]})"


def _find_gpu(root: Path, sensors: Sensors) -> None:
    folder = _gpu_folder(root / DEVFREQ)
    if folder is None:
        sensors.missing["clock of the GPU"] = f"there is no GPU in {root / DEVFREQ}."
        return
    sensors.add(CLOCK, "gpu", reader(folder / "cur_freq", 1e-6), missing="clock of the GPU")
    for fact, name in (("GPU least clock", "min_freq"), ("GPU most clock", "max_freq")):
        sensors.fact(fact, _megahertz(folder / name))
    sensors.fact("GPU governor", lambda: text(folder / "governor"))
    # In tenths of a percent; Thor does not have it and uses NVML.
    for load in (folder / "device/load", folder / "load"):
        if sensors.add(GPU_LOAD, "gpu", reader(load, 0.1), missing="load of the GPU"):
            sensors.missing.pop("load of the GPU", None)
            return


def _gpu_folder(devfreq: Path) -> Optional[Path]:
    for pattern in GPUS:
        for folder in sorted(devfreq.glob(pattern)):
            return folder
    return None


def _megahertz(path: Path) -> Callable[[], str]:
    return lambda: f"{number(path) * 1e-6:.0f} MHz"


def _find_over_current(root: Path, sensors: Sensors) -> None:
    """Add the counters of the driver tegra234-oc-event (Orin, Thor); Xavier only writes to the kernel's log."""
    folder = root / "sys/devices/platform/soctherm-oc-event"
    counters = sorted(folder.glob("hwmon/hwmon*/oc*_event_cnt"), key=by_number)
    if not counters:
        sensors.missing["over-current events"] = f"there is no counter in {folder}."
    for index, counter in enumerate(counters):
        what = OC_EVENTS[index] if index < len(OC_EVENTS) else counter.name
        sensors.add(EVENTS, f"oc{index + 1} ({what})", reader(counter), missing=f"events of oc{index + 1}")
