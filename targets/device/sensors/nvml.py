"""A GPU's power, energy, clocks, temperature and throttling reasons, by NVIDIA's management library (NVML).

Called through ctypes: the images have no Python bindings, and the functions used here have the same signatures in
every driver that TensorRT 8.5 and later run on (nvml.h). On a Jetson before Thor most of them are not supported; use
hwmon and devfreq there.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Callable, Optional, Tuple

from targets.device.nvidia.cudart import Cuda, CudaError
from targets.device.sensors.gauge import (
    CLOCK,
    ENERGY,
    GPU_LOAD,
    POWER,
    STATE,
    TEMPERATURE,
    Sensors,
    Source,
    Unreadable,
)

LIBRARY = "libnvidia-ml.so.1"
NAME_BYTES = 96
CLOCK_SM, CLOCK_MEMORY, TEMPERATURE_GPU = 1, 2, 0
# nvmlClocksEventReasons: bits of throttling; the others (idle, clocks set by the user, display) are not.
CUTS = (
    (0x04, "power cap"),
    (0x08, "hardware slowdown"),
    (0x20, "heat, by software"),
    (0x40, "heat, by hardware"),
    (0x80, "power brake"),
)


class Utilization(ctypes.Structure):
    """nvmlUtilization_t: percent of the last sample period with kernels running, and with memory accesses."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Nvml:
    """The library and one of its GPUs; raises `Unreadable` if there is none."""

    def __init__(self, library: Optional[Path] = None, bus_id: Optional[str] = None) -> None:
        name = LIBRARY if library is None else str(library)
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise Unreadable(f"NVML cannot be loaded: {error}. It comes with NVIDIA's driver.") from None
        self._call("nvmlInit_v2")
        try:
            self._gpu = self._find_device(bus_id)
        except Unreadable:
            self.close()
            raise

    def close(self) -> None:
        self._library.nvmlShutdown()

    def name(self) -> str:
        buffer = ctypes.create_string_buffer(NAME_BYTES)
        self._call("nvmlDeviceGetName", self._gpu, buffer, ctypes.c_uint(NAME_BYTES))
        return buffer.value.decode(errors="replace")

    def persistence(self) -> str:
        """Return whether the driver stays loaded while the GPU is unused; otherwise the first run waits for it."""
        return "on" if self._number("nvmlDeviceGetPersistenceMode") else "off"

    def power_limit(self) -> str:
        return f"{self._number('nvmlDeviceGetEnforcedPowerLimit') / 1000:.0f} W"

    def most_clock(self) -> str:
        return f"{self._number('nvmlDeviceGetMaxClockInfo', CLOCK_SM)} MHz"

    def watts(self) -> float:
        """Return the power of the whole card; on Ampere and later, except A100, the mean of a second (nvml.h)."""
        return self._number("nvmlDeviceGetPowerUsage") / 1000

    def joules(self) -> float:
        """Return the energy since the driver was loaded."""
        value = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._gpu, ctypes.byref(value))
        return value.value / 1000

    def clock_mhz(self) -> float:
        """Return the clock of the multiprocessors."""
        return float(self._number("nvmlDeviceGetClockInfo", CLOCK_SM))

    def memory_clock_mhz(self) -> float:
        return float(self._number("nvmlDeviceGetClockInfo", CLOCK_MEMORY))

    def celsius(self) -> float:
        return float(self._number("nvmlDeviceGetTemperature", TEMPERATURE_GPU))

    def load_percent(self) -> float:
        value = Utilization()
        self._call("nvmlDeviceGetUtilizationRates", self._gpu, ctypes.byref(value))
        return float(value.gpu)

    def cuts(self) -> int:
        """Return the bits of CUTS that are active now."""
        value = ctypes.c_ulonglong()
        try:
            self._call("nvmlDeviceGetCurrentClocksEventReasons", self._gpu, ctypes.byref(value))
        except Unreadable:
            # Its name before driver 535.
            self._call("nvmlDeviceGetCurrentClocksThrottleReasons", self._gpu, ctypes.byref(value))
        return value.value & sum(bit for bit, _ in CUTS)

    def cut(self, bit: int) -> float:
        """Return 1 while clocks are throttled for this reason, otherwise 0."""
        return float(bool(self.cuts() & bit))

    def _find_device(self, bus_id: Optional[str]) -> ctypes.c_void_p:
        gpu = ctypes.c_void_p()
        why = "CUDA does not report its bus ID."
        if bus_id is not None:
            try:
                self._call("nvmlDeviceGetHandleByPciBusId_v2", bus_id.encode(), ctypes.byref(gpu))
                return gpu
            except Unreadable as error:
                why = f"at {bus_id}, {error}"
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        if count.value != 1:
            raise Unreadable(f"NVML has {count.value} GPUs, and the one that CUDA uses was not found: {why}")
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(0), ctypes.byref(gpu))
        return gpu

    def _number(self, function: str, *arguments: int) -> int:
        value = ctypes.c_uint()
        self._call(function, self._gpu, *map(ctypes.c_int, arguments), ctypes.byref(value))
        return value.value

    def _call(self, function: str, *arguments: object) -> None:
        try:
            code = getattr(self._library, function)(*arguments)
        except AttributeError:
            raise Unreadable(f"this driver's NVML has no {function}.") from None
        if code != 0:
            raise Unreadable(f"{function} failed: {self._error(code)} (NVML error {code}).")

    def _error(self, code: int) -> str:
        describe = self._library.nvmlErrorString
        describe.restype = ctypes.c_char_p
        return str(describe(ctypes.c_int(code)).decode(errors="replace"))


def find_nvml(sensors: Sensors, library: Optional[Path] = None, bus_id: Optional[str] = None) -> None:
    """Add NVML's sensors of the GPU that CUDA uses, or of the one with `bus_id`."""
    try:
        nvml = Nvml(library, _bus_id() if bus_id is None else bus_id)
    except Unreadable as reason:
        sensors.missing["NVML"] = str(reason)
        return
    sensors.closers.append(nvml.close)
    facts: Tuple[Tuple[str, Callable[[], str]], ...] = (
        ("GPU", nvml.name),
        ("GPU persistence mode", nvml.persistence),
        ("GPU power limit", nvml.power_limit),
        ("GPU most clock", nvml.most_clock),
    )
    for name, read in facts:
        if name not in sensors.facts:
            sensors.fact(name, read)
    known = {gauge.kind for gauge in sensors.gauges if gauge.name.startswith("gpu")}
    if CLOCK not in known and sensors.add(CLOCK, "gpu", nvml.clock_mhz, missing="clock of the GPU"):
        sensors.missing.pop("clock of the GPU", None)
    sensors.add(CLOCK, "gpu memory", nvml.memory_clock_mhz, missing="clock of the GPU's memory")
    sensors.add(TEMPERATURE, "gpu", nvml.celsius, missing="temperature of the GPU")
    if GPU_LOAD not in known and sensors.add(GPU_LOAD, "gpu", nvml.load_percent, missing="load of the GPU"):
        sensors.missing.pop("load of the GPU", None)
    _find_energy(nvml, sensors)
    for bit, why in CUTS:
        sensors.add(STATE, f"gpu ({why})", _cut(nvml, bit), missing="throttling of the GPU")


def _find_energy(nvml: Nvml, sensors: Sensors) -> None:
    covers = "the whole graphics card; neither CPU nor other parts of the machine"
    has_power = sensors.add(POWER, "gpu", nvml.watts, missing="power of the GPU")
    if sensors.add(ENERGY, "gpu counter", nvml.joules, missing="energy counter of the GPU"):
        sensors.sources.append(Source("gpu", covers, ENERGY, ("gpu counter",)))
    elif has_power:
        sensors.sources.append(Source("gpu", covers, POWER, ("gpu",)))


def _cut(nvml: Nvml, bit: int) -> Callable[[], float]:
    return lambda: nvml.cut(bit)


def _bus_id() -> Optional[str]:
    """Return the PCI bus ID of CUDA's first GPU, whose index may differ in NVML."""
    try:
        return Cuda().bus_id()
    except CudaError:
        return None
