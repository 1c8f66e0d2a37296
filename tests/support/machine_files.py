"""The files below /sys, /proc, /etc and /var that machines show, written by hand after documents, captured on none.

After the kernel's documentation (hwmon/ina3221, thermal/sysfs-api, cpu-freq, powercap), NVIDIA's Jetson Linux
Developer Guide (rails, nvpmodel, over-current counters) and what jetson_stats reads. Figures are made up.
"""

from collections.abc import Mapping
from pathlib import Path

STAT = "cpu  1000 0 500 90000 200 0 50 0 0 0\ncpu0 500 0 250 45000 100 0 25 0 0 0\n"
COMMON = {"proc/stat": STAT, "proc/loadavg": "0.10 0.20 0.30 1/200 4711\n"}
I2C = "sys/bus/i2c/drivers"


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def ina3221(place: str, *rails: tuple[str, int, int]) -> dict[str, str]:
    """Channels of (label, mV, mA), and the sums that are no rails."""
    folder = f"{I2C}/ina3221/{place}"
    files = {f"{folder}/name": "ina3221\n", f"{folder}/in7_label": "sum of shunt voltages\n"}
    for number, (label, volts, amperes) in enumerate(rails, 1):
        files[f"{folder}/in{number}_label"] = f"{label}\n"
        files[f"{folder}/in{number}_input"] = f"{volts}\n"
        files[f"{folder}/curr{number}_input"] = f"{amperes}\n"
        files[f"{folder}/in{number + 3}_input"] = "99\n"
    return {**files, f"{folder}/curr4_input": "99999\n", f"{folder}/in7_input": "99\n"}


def zones(**celsius: float) -> dict[str, str]:
    files = {}
    for number, (name, value) in enumerate(celsius.items()):
        folder = f"sys/class/thermal/thermal_zone{number}"
        files[f"{folder}/type"] = f"{name.replace('_', '-')}\n"
        files[f"{folder}/temp"] = f"{value * 1000:.0f}\n"
    return files


def cooling(*devices: tuple[str, int]) -> dict[str, str]:
    files = {}
    for number, (kind, state) in enumerate(devices):
        folder = f"sys/class/thermal/cooling_device{number}"
        files[f"{folder}/type"] = f"{kind}\n"
        files[f"{folder}/cur_state"] = f"{state}\n"
    return files


def policies(kilohertz: Mapping[int, int], *, governor: str, most: int) -> dict[str, str]:
    files = {}
    for number, clock in kilohertz.items():
        folder = f"sys/devices/system/cpu/cpufreq/policy{number}"
        files[f"{folder}/scaling_cur_freq"] = f"{clock}\n"
        files[f"{folder}/scaling_governor"] = f"{governor}\n"
        files[f"{folder}/scaling_driver"] = "tegra194\n"
        files[f"{folder}/scaling_min_freq"] = "115200\n"
        files[f"{folder}/scaling_max_freq"] = f"{most}\n"
    return files


def gpu(name: str, hertz: int, *, load: str | None = "device/load") -> dict[str, str]:
    folder = f"sys/class/devfreq/{name}"
    files = {
        f"{folder}/cur_freq": f"{hertz}\n",
        f"{folder}/min_freq": "306000000\n",
        f"{folder}/max_freq": "1300500000\n",
        f"{folder}/governor": "nvhost_podgov\n",
    }
    return files if load is None else {**files, f"{folder}/{load}": "125\n"}


def nvpmodel(mode: int, *names: str) -> dict[str, str]:
    entries = "".join(
        f"< POWER_MODEL ID={index} NAME={name} >\nCPU_ONLINE CORE_0 1\n" for index, name in enumerate(names)
    )
    return {
        "var/lib/nvpmodel/status": f"pmode:{mode:04}\n",
        "etc/nvpmodel.conf": f"{entries}< PM_CONFIG DEFAULT=0 >\n",
    }


def over_current(*counts: int) -> dict[str, str]:
    folder = "sys/devices/platform/soctherm-oc-event/hwmon/hwmon3"
    return {f"{folder}/oc{number}_event_cnt": f"{count}\n" for number, count in enumerate(counts, 1)}


def tegra(chip: str) -> dict[str, str]:
    return {
        "proc/device-tree/compatible": f"nvidia,p3737-0000+p3701-0005\0nvidia,{chip}\0",
        "sys/devices/soc0/family": "Tegra\n",
    }


AGX_ORIN_JETPACK_6 = {
    **COMMON,
    **tegra("tegra234"),
    **ina3221(
        "1-0040/hwmon/hwmon3", ("VDD_GPU_SOC", 19000, 400), ("VDD_CPU_CV", 19000, 100), ("VIN_SYS_5V0", 5000, 800)
    ),
    **ina3221("1-0041/hwmon/hwmon4", ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 80), ("NC", 0, 0)),
    **zones(cpu_thermal=48.5, gpu_thermal=46.0, tj_thermal=49.0),
    **cooling(("pwm-fan", 2), ("cpu-throttle-alert", 0), ("gpu-throttle-alert", 0), ("devfreq-17000000.ga10b", 0)),
    **policies({0: 2201600, 4: 729600, 8: 729600}, governor="schedutil", most=2201600),
    **gpu("17000000.gpu", 816000000),
    **nvpmodel(2, "MAXN", "MODE_15W", "MODE_30W", "MODE_50W"),
    **over_current(0, 0, 4),
    "sys/kernel/debug/bpmp/debug/clk/emc/rate": "3199000000\n",
}
ORIN_NANO = {
    **COMMON,
    **tegra("tegra234"),
    **ina3221("1-0040/hwmon/hwmon1", ("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 300)),
    **zones(cpu_thermal=51.0, gpu_thermal=50.0),
    **policies({0: 1510400}, governor="schedutil", most=1510400),
    **gpu("17000000.ga10b", 624750000),
    **nvpmodel(0, "15W", "25W", "MAXN_SUPER", "7W"),
    **over_current(0, 0, 0),
}
AGX_XAVIER_JETPACK_5 = {
    **COMMON,
    **tegra("tegra194"),
    **ina3221("1-0040/hwmon/hwmon3", ("GPU", 19000, 40), ("CPU", 19000, 30), ("SOC", 19000, 60)),
    **ina3221("1-0041/hwmon/hwmon4", ("CV", 19000, 0), ("VDDRQ", 19000, 20), ("SYS5V", 5000, 400)),
    **zones(CPU_therm=39.0, GPU_therm=38.0),
    **policies({0: 1190400}, governor="schedutil", most=2265600),
    **gpu("17000000.gv11b", 114750000, load=None),
    "sys/class/devfreq/17000000.gv11b/load": "0\n",
    **nvpmodel(7, "MAXN"),
}
THOR = {
    **COMMON,
    **tegra("tegra264"),
    **ina3221(
        "2-0040/hwmon/hwmon1", ("VDD_GPU", 12000, 0), ("VDD_CPU_SOC_MSS", 12000, 500), ("VIN_SYS_5V0", 5000, 1300)
    ),
    f"{I2C}/ina238/2-0044/hwmon/hwmon2/name": "ina238\n",
    f"{I2C}/ina238/2-0044/hwmon/hwmon2/label": "VIN\n",
    f"{I2C}/ina238/2-0044/hwmon/hwmon2/power1_input": "23100000\n",
    **zones(tj_thermal=55.1, cpu_thermal=53.7),
    **cooling(("pwm-fan", 0), ("gpu-throttle-alert", 1), ("devfreq-gpu-gpc-0", 18)),
    **policies({0: 2601000}, governor="schedutil", most=2601000),
    **gpu("gpu-gpc-0", 1575000000, load=None),
    **over_current(0, 0, 179),
}
PC = {
    **COMMON,
    "sys/class/hwmon/hwmon0/name": "acpitz\n",
    "sys/class/hwmon/hwmon1/name": "k10temp\n",
    "sys/class/hwmon/hwmon1/temp1_input": "44250\n",
    **cooling(("Processor", 0), ("Processor", 0), ("Fan", 1), ("intel_powerclamp", -1), ("TCC Offset", 5)),
    **policies({0: 3400000, 1: 2200000, 10: 2200000, 2: 2200000}, governor="powersave", most=4500000),
    "sys/devices/system/cpu/intel_pstate/no_turbo": "0\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "7\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count": "7\n",
    "sys/class/powercap/intel-rapl:0/name": "package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": "1000000\n",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850\n",
    "sys/class/powercap/intel-rapl:0:0/name": "core\n",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "500000\n",
    "sys/class/powercap/intel-rapl:0:2/name": "dram\n",
    "sys/class/powercap/intel-rapl:0:2/energy_uj": "200000\n",
}
RASPBERRY_PI = {
    **COMMON,
    "proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
    **zones(cpu_thermal=61.3),
    **cooling(("cpufreq-cpu0", 0), ("pwm-fan", 3)),
    **policies({0: 1500000}, governor="ondemand", most=1500000),
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
}
MACHINES = {
    "agx-orin-jp6": AGX_ORIN_JETPACK_6,
    "orin-nano": ORIN_NANO,
    "agx-xavier-jp5": AGX_XAVIER_JETPACK_5,
    "thor": THOR,
    "pc": PC,
    "raspberry-pi": RASPBERRY_PI,
}
