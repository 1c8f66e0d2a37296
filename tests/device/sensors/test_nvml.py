"""Calls of NVML, against a library in C that has its names and signatures; and NVIDIA's own bindings against both.

The library proves how arguments and structs cross from Python to C, nothing about a GPU. That its names and layouts
are NVIDIA's is shown by NVIDIA's own Python bindings, which get the same answers from it.
"""

import ctypes
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from targets.device.sensors import nvml as module
from targets.device.sensors.gauge import CLOCK, ENERGY, GPU_LOAD, POWER, STATE, TEMPERATURE, Sensors, Unreadable
from targets.device.sensors.nvml import Nvml, find_nvml

SOURCE = r"""
#include <string.h>
typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;
static char gpus[2]; static int users, has_counter = 1;
static unsigned int count = 1; static unsigned long long reasons = 0x1, millijoules = 5000000000000ull;
static int check(void *gpu) { return users < 1 ? 1 : gpu == &gpus[0] || gpu == &gpus[1] ? 0 : 2; }
#define FOR(gpu) do { int code = check(gpu); if (code) return code; } while (0)
void set(int gpu_count, unsigned long long why, int counter) {
    count = gpu_count; reasons = why; has_counter = counter; }
int open_users(void) { return users; }
int nvmlInit_v2(void) { users++; return 0; }
int nvmlInitWithFlags(unsigned int flags) { users++; return flags; }
int nvmlShutdown(void) { users--; return 0; }
const char *nvmlErrorString(int code) { return code == 3 ? "Not Supported" : code == 6 ? "Not Found" : "Other"; }
int nvmlDeviceGetCount_v2(unsigned int *n) { *n = count; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **gpu) { if (i >= count) return 2; *gpu = &gpus[i]; return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **gpu) {
    if (strcmp(id, "0000:41:00.0")) return 6;
    *gpu = &gpus[1]; return 0; }
int nvmlDeviceGetName(void *gpu, char *name, unsigned int length) {
    FOR(gpu); if (length < 24) return 7;
    strcpy(name, gpu == &gpus[0] ? "NVIDIA Test 1" : "NVIDIA Test 2"); return 0; }
int nvmlDeviceGetPowerUsage(void *gpu, unsigned int *mw) { FOR(gpu); *mw = 42500; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *gpu, unsigned long long *mj) {
    FOR(gpu); if (!has_counter) return 3;
    *mj = millijoules += 1000; return 0; }
int nvmlDeviceGetClockInfo(void *gpu, int type, unsigned int *mhz) {
    FOR(gpu); *mhz = type == 1 ? 1710 : type == 2 ? 7001 : 1; return 0; }
int nvmlDeviceGetMaxClockInfo(void *gpu, int type, unsigned int *mhz) {
    FOR(gpu); *mhz = type == 1 ? 2100 : 1; return 0; }
int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned int *celsius) {
    FOR(gpu); if (sensor) return 2; *celsius = 63; return 0; }
int nvmlDeviceGetUtilizationRates(void *gpu, nvmlUtilization_t *u) { FOR(gpu); u->gpu = 7; u->memory = 99; return 0; }
int nvmlDeviceGetPersistenceMode(void *gpu, int *mode) { FOR(gpu); *mode = 1; return 0; }
int nvmlDeviceGetEnforcedPowerLimit(void *gpu, unsigned int *mw) { FOR(gpu); *mw = 70000; return 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *gpu, unsigned long long *r) { FOR(gpu); *r = reasons; return 0; }
"""
NEWER = r"""
int nvmlDeviceGetCurrentClocksEventReasons(void *gpu, unsigned long long *r) { FOR(gpu); *r = reasons; return 0; }
"""
BINDINGS = "nvidia-ml-py==13.615.71"


@pytest.fixture(scope="module", params=["before driver 535", "since driver 535"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to compile the library with")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(SOURCE + (NEWER if request.param.startswith("since") else ""))
    path = folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, folder / "nvml.c"], check=True)
    return path


def arrange(library: Path, *, count: int = 1, reasons: int = 1, has_counter: bool = True) -> None:
    ctypes.CDLL(str(library)).set(count, ctypes.c_ulonglong(reasons), int(has_counter))


def users(library: Path) -> int:
    return int(ctypes.CDLL(str(library)).open_users())


def found(library: Path, bus_id: str | None = None) -> Sensors:
    sensors = Sensors()
    find_nvml(sensors, library, bus_id)
    return sensors


def test_everything_it_tells(library: Path) -> None:
    arrange(library)
    sensors = found(library)
    assert sensors.missing == {}
    assert sensors.facts == {
        "GPU": "NVIDIA Test 1",
        "GPU persistence mode": "on",
        "GPU power limit": "70 W",
        "GPU most clock": "2100 MHz",
    }
    values = {(gauge.kind, gauge.name): gauge.read() for gauge in sensors.gauges}
    # More millijoules than 32 bits hold.
    assert 5e9 < values.pop((ENERGY, "gpu counter")) < 5.1e9
    states = {name: value for (kind, name), value in values.items() if kind == STATE}
    assert len(states) == 5
    assert not any(states.values())
    assert {key: value for key, value in values.items() if key[0] != STATE} == {
        (CLOCK, "gpu"): 1710,
        (CLOCK, "gpu memory"): 7001,
        (TEMPERATURE, "gpu"): 63,
        (GPU_LOAD, "gpu"): 7,
        (POWER, "gpu"): 42.5,
    }
    assert [(source.name, source.kind) for source in sensors.sources] == [("gpu", ENERGY)]
    assert users(library) == 1
    sensors.close()
    assert users(library) == 0


@pytest.mark.parametrize(
    ("reasons", "names"),
    [
        (0x1, set()),
        (0x1 | 0x2 | 0x10 | 0x100, set()),
        (0x4, {"gpu (power cap)"}),
        (0x8 | 0x40, {"gpu (hardware slowdown)", "gpu (heat, by hardware)"}),
        (0x20 | 0x80, {"gpu (heat, by software)", "gpu (power brake)"}),
    ],
)
def test_reasons_that_cut_clocks_and_such_that_do_not(library: Path, reasons: int, names: set[str]) -> None:
    arrange(library, reasons=reasons)
    sensors = found(library)
    assert {gauge.name for gauge in sensors.gauges if gauge.kind == STATE and gauge.read() > 0} == names
    sensors.close()


def test_without_a_counter_power_is_sampled(library: Path) -> None:
    arrange(library, has_counter=False)
    sensors = found(library)
    assert sensors.missing == {
        "energy counter of the GPU": "nvmlDeviceGetTotalEnergyConsumption failed: Not Supported (NVML error 3)."
    }
    assert [(source.kind, source.gauges) for source in sensors.sources] == [(POWER, ("gpu",))]
    sensors.close()


def test_the_gpu_is_the_one_on_cudas_bus(library: Path) -> None:
    arrange(library, count=2)
    sensors = found(library, "0000:41:00.0")
    assert sensors.facts["GPU"] == "NVIDIA Test 2"
    sensors.close()
    for bus_id, message in ((None, "CUDA does not report"), ("0000:99:00.0", "at 0000:99:00.0, .*Not Found")):
        with pytest.raises(Unreadable, match=f"NVML has 2 GPUs, and the one that CUDA uses was not found: {message}"):
            Nvml(library, bus_id)
    assert users(library) == 0
    # Of one alone there is no doubt; a Jetson's is on no bus that NVML knows.
    arrange(library, count=1)
    sensors = found(library, "0000:00:00.0")
    assert sensors.facts["GPU"] == "NVIDIA Test 1"
    sensors.close()


def test_what_devfreq_told_already_is_not_asked_twice(library: Path) -> None:
    arrange(library)
    sensors = Sensors(missing={"load of the GPU": "no such file."})
    sensors.add(CLOCK, "gpu", lambda: 1.0)
    find_nvml(sensors, library)
    assert [gauge.read() for gauge in sensors.gauges if (gauge.kind, gauge.name) == (CLOCK, "gpu")] == [1.0]
    assert "load of the GPU" not in sensors.missing
    sensors.close()


def test_a_machine_without_nvml_says_so(tmp_path: Path) -> None:
    sensors = found(tmp_path / "absent.so")
    assert "NVML cannot be loaded" in sensors.missing["NVML"]
    assert sensors.gauges == []


def test_a_library_that_lacks_a_function_is_no_crash(tmp_path: Path, library: Path) -> None:
    (tmp_path / "old.c").write_text(SOURCE.replace("nvmlDeviceGetTemperature", "nvmlGone"))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "old.so", tmp_path / "old.c"], check=True)
    sensors = found(tmp_path / "old.so")
    assert sensors.missing == {"temperature of the GPU": "this driver's NVML has no nvmlDeviceGetTemperature."}
    sensors.close()


@pytest.fixture(scope="module")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with NVIDIA's own pynvml.py."""
    folder = tmp_path_factory.mktemp("bindings")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
    done = subprocess.run([*command, BINDINGS], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"{BINDINGS} cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extract("pynvml.py", folder)
    return folder


def test_nvidias_bindings_know_every_function_and_bit(bindings: Path) -> None:
    text = (bindings / "pynvml.py").read_text()
    asked = set(re.findall(r"""(?:["']|_library\.)(nvml[A-Z]\w+)""", Path(module.__file__).read_text()))
    assert len(asked) >= 15
    # Its own way to begin is nvmlInitWithFlags, which nvmlInit_v2 has been without flags since it was there.
    unknown = {name for name in asked if f'"{name}"' not in text and not name.endswith("_t")}
    assert unknown == {"nvmlInit_v2"}
    theirs = dict(re.findall(r"^nvmlClocksEventReason(\w+)\s+= (0x\d+)$", text, re.MULTILINE))
    ours = ("SwPowerCap", "HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
    assert [bit for bit, _ in module.CUTS] == [int(theirs[name], 16) for name in ours]


def test_nvidias_bindings_get_the_same_answers(bindings: Path, library: Path) -> None:
    """In a process of its own, as they would load the library of a driver."""
    code = (
        "import ctypes, json, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import pynvml as n\n"
        "n.nvmlLib = ctypes.CDLL(sys.argv[2])\n"
        "n.nvmlInit()\n"
        "g = n.nvmlDeviceGetHandleByPciBusId('0000:41:00.0')\n"
        "print(json.dumps([n.nvmlDeviceGetName(g), n.nvmlDeviceGetPowerUsage(g) / 1000,\n"
        "    n.nvmlDeviceGetTotalEnergyConsumption(g) / 1000, n.nvmlDeviceGetClockInfo(g, n.NVML_CLOCK_SM),\n"
        "    n.nvmlDeviceGetClockInfo(g, n.NVML_CLOCK_MEM), n.nvmlDeviceGetTemperature(g, n.NVML_TEMPERATURE_GPU),\n"
        "    n.nvmlDeviceGetUtilizationRates(g).gpu, n.nvmlDeviceGetPersistenceMode(g),\n"
        "    n.nvmlDeviceGetEnforcedPowerLimit(g) / 1000, n.nvmlDeviceGetMaxClockInfo(g, n.NVML_CLOCK_SM)]))"
    )
    done = subprocess.run([sys.executable, "-c", code, bindings, library], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name, watts, joules, clock, memory, celsius, load, persistence, limit, most = json.loads(done.stdout)
    arrange(library, count=2)
    ours = Nvml(library, "0000:41:00.0")
    assert (ours.name(), ours.watts(), ours.clock_mhz(), ours.memory_clock_mhz()) == (name, watts, clock, memory)
    assert (ours.celsius(), ours.load_percent(), ours.persistence()) == (celsius, load, "on" if persistence else "off")
    assert (ours.power_limit(), ours.most_clock()) == (f"{limit:.0f} W", f"{most} MHz")
    # The counter has been read before, in both processes from the same start.
    assert joules == pytest.approx(ours.joules(), rel=1e-6)
    ours.close()
