"""What devices answer to `preflight.sh`. Written by hand after NVIDIA's documents and release notes, not captured: no
Jetson was at hand. The sections' names and order are those of the script, which a test runs on this machine."""

PC_DOCKER = '{"io.containerd.runc.v2":{"path":"runc"},"runc":{"path":"runc"}}'
WITH_NVIDIA = (
    '{"io.containerd.runc.v2":{"path":"runc"},"nvidia":{"path":"nvidia-container-runtime"},"runc":{"path":"runc"}}'
)
ARM_FEATURES = (
    "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
)
X86_FLAGS = "flags\t\t: fpu sse sse2 ssse3 sse4_1 sse4_2 avx f16c avx2 avx512f avx512bw avx512_vnni"
ROOMY = {"work-free": "104857600", "docker-free": "104857600"}

PC: dict[str, str] = {
    "machine": "x86_64",
    "user": "me",
    "work": "/home/me/.cache/edge-deploy",
    "release": "",
    "l4t-core": "",
    "model": "",
    "power-mode": "",
    "power-modes": "",
    "clocks": "cpu policy0 400000 4700000 \ncpu policy1 400000 4700000 ",
    "nvidia-smi": "",
    "gpu-hook": "",
    "docker-command": "/usr/bin/docker",
    "docker-version": "linux/amd64 27.3.1",
    "docker-root": "/var/lib/docker",
    "docker-runtimes": PC_DOCKER,
    "base-image": "",
    "programs": "",
    **ROOMY,
    "memory": "MemTotal:       32594620 kB\nMemAvailable:   28113220 kB",
    "temperature": "acpitz 27800\nx86_pkg_temp 41000",
    "cpu": X86_FLAGS,
    "end": "",
}
RTX_4090 = PC | {
    "nvidia-smi": "NVIDIA GeForce RTX 4090, 580.65.06, 8.9, 24564",
    "gpu-hook": "/usr/bin/nvidia-container-runtime-hook",
    "docker-runtimes": WITH_NVIDIA,
}
ORIN_JP62 = PC | {
    "machine": "aarch64",
    "release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic",
    "l4t-core": "ii  36.4.3-20250107174145",
    "model": "NVIDIA Jetson AGX Orin Developer Kit",
    "power-mode": "NV Power Mode: MAXN\n0",
    "power-modes": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=MODE_15W >\n"
    "< POWER_MODEL ID=2 NAME=MODE_30W >\n< POWER_MODEL ID=3 NAME=MODE_50W >",
    "clocks": "cpu policy0 2201600 2201600 \ncpu policy4 2201600 2201600 \ngpu 17000000.gpu 1300500000 1300500000 ",
    "docker-version": "linux/arm64 27.5.1",
    "docker-runtimes": WITH_NVIDIA,
    "memory": "MemTotal:       64349300 kB\nMemAvailable:   60112000 kB",
    "temperature": "cpu-thermal 49875\ngpu-thermal 46218\ncv0-thermal -256000\ntj-thermal 49875",
    "cpu": ARM_FEATURES,
}
NANO_SUPER_JP62 = ORIN_JP62 | {
    "model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    "power-mode": "NV Power Mode: 15W\n0",
    "power-modes": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n"
    "< POWER_MODEL ID=2 NAME=MAXN_SUPER >",
    "clocks": "cpu policy0 729600 1510400 \ngpu 17000000.gpu 306000000 624750000 ",
    "memory": "MemTotal:        7802680 kB\nMemAvailable:    5512000 kB",
}
XAVIER_JP51 = ORIN_JP62 | {
    "release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: generic",
    "l4t-core": "ii  35.4.1-20230801124926",
    "model": "NVIDIA Jetson Xavier NX Developer Kit",
    "power-mode": "NV Fan Mode:quiet\nNV Power Mode: MODE_20W_6CORE\n8",
    "power-modes": "< POWER_MODEL ID=0 NAME=MODE_15W_2CORE >\n< POWER_MODEL ID=3 NAME=MODE_10W_2CORE >\n"
    "< POWER_MODEL ID=8 NAME=MODE_20W_6CORE >",
    "clocks": "cpu policy0 1190400 1907200 \ngpu 17000000.gv11b 114750000 1109250000 ",
    "docker-version": "linux/arm64 20.10.21",
    "memory": "MemTotal:        6979456 kB\nMemAvailable:    5102000 kB",
}
# No file of NVIDIA's: an image built by others has the package alone.
THOR_JP70 = ORIN_JP62 | {
    "release": "",
    "l4t-core": "ii  38.2.0-20250821174705",
    "model": "NVIDIA Jetson AGX Thor Developer Kit",
    "power-mode": "NV Power Mode: 120W\n1",
    "power-modes": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >",
    "clocks": "cpu policy0 972000 2601000 \ngpu gpu-gpc-0 315000000 1575000000 ",
    "nvidia-smi": "NVIDIA Thor, 580.00, 11.0, [N/A]",
    "memory": "MemTotal:       128823000 kB\nMemAvailable:   120000000 kB",
}
NANO_JP4 = ORIN_JP62 | {
    "release": "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: generic",
    "model": "NVIDIA Jetson Nano Developer Kit",
}


def answer(sections: dict[str, str]) -> str:
    """As the script prints it."""
    return "".join(f"\n@@ {name}\n{body}\n" for name, body in sections.items())
