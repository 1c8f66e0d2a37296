"""What keeps a device from doing its part, each with the cure; and what only belongs beside its figures."""

import pytest
from preflight_answers import (
    NANO_JP4,
    NANO_SUPER_JP62,
    ORIN_JP62,
    PC,
    PC_DOCKER,
    RTX_4090,
    THOR_JP70,
    XAVIER_JP51,
    answer,
)

from pipeline.devices.inventory import Device
from pipeline.devices.preflight import read_facts
from pipeline.devices.requirements import USUAL, Needs, check
from pipeline.errors import CommandMissing, DeployError, DeviceDiskFull, DeviceUnfit
from targets.target import find_target

DENIED = "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock"
STOPPED = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"


def check_of(sections: dict[str, str], target: str, needs: Needs | None = None) -> list[str]:
    found = find_target(target)
    device = Device(name="it", address="me@it")
    return check(device, read_facts(answer(sections)), found, needs or USUAL[found.runtime])


@pytest.mark.parametrize(
    ("sections", "target"),
    [
        (PC, "cpu"),
        (ORIN_JP62, "cpu-arm64"),
        (ORIN_JP62, "orin-jp61"),
        (NANO_SUPER_JP62, "orin-jp61"),
        (XAVIER_JP51, "xavier-jp51"),
        (THOR_JP70, "thor-jp70"),
        (RTX_4090, "gpu-ada"),
        (RTX_4090 | {"docker-runtimes": PC_DOCKER}, "gpu-ada"),
    ],
)
def test_devices_that_fit(sections: dict[str, str], target: str) -> None:
    check_of(sections, target)


@pytest.mark.parametrize(
    ("sections", "target", "kind", "said"),
    [
        (PC, "cpu-arm64", DeviceUnfit, "it is linux/amd64, the target cpu-arm64 is linux/arm64"),
        (NANO_JP4, "orin-jp61", DeviceUnfit, "JetPack 4"),
        (NANO_JP4, "cpu-arm64", DeviceUnfit, "JetPack 4"),
        (ORIN_JP62, "orin-jp60", DeviceUnfit, "L4T 36.4.3 (JetPack 6.2); the target orin-jp60 is for L4T 36.3"),
        (ORIN_JP62, "orin-jp72", DeviceUnfit, "Use the target of its JetPack"),
        (XAVIER_JP51, "orin-jp61", DeviceUnfit, "L4T 35.4.1 (JetPack 5.1.2)"),
        (
            ORIN_JP62 | {"release": "", "l4t-core": ""},
            "orin-jp61",
            DeviceUnfit,
            "it is not a Jetson",
        ),
        (ORIN_JP62 | {"docker-runtimes": PC_DOCKER}, "orin-jp61", DeviceUnfit, "nvidia-ctk runtime configure"),
        (
            ORIN_JP62 | {"memory": "MemTotal:        1990000 kB"},
            "orin-jp61",
            DeviceUnfit,
            "the smallest module of the target orin-jp61 has 4",
        ),
        (PC, "gpu-ada", DeviceUnfit, "nvidia-smi shows no GPU"),
        (RTX_4090, "gpu-turing", DeviceUnfit, "compute capability 8.9"),
        (
            RTX_4090 | {"nvidia-smi": "NVIDIA GeForce RTX 4090, 535.183.01, 8.9, 24564"},
            "gpu-ada",
            DeviceUnfit,
            "its driver is 535.183.01",
        ),
        (
            RTX_4090 | {"docker-runtimes": PC_DOCKER, "gpu-hook": ""},
            "gpu-ada",
            DeviceUnfit,
            "nvidia-container-toolkit",
        ),
        (PC | {"docker-command": "", "docker-version": "sh: docker: not found"}, "cpu", CommandMissing, "docker.io"),
        (PC | {"docker-version": DENIED}, "cpu", DeviceUnfit, "sudo usermod -aG docker me"),
        (PC | {"docker-version": STOPPED}, "cpu", DeviceUnfit, "sudo systemctl start docker"),
        (PC | {"programs": "sha256sum"}, "cpu", CommandMissing, "sha256sum is not installed"),
        (PC | {"docker-free": "100000"}, "cpu", DeviceDiskFull, "102 MB are free for Docker's images"),
        (PC | {"work-free": "1000"}, "cpu", DeviceDiskFull, "our folder /home/me/.cache/edge-deploy"),
    ],
)
def test_devices_that_do_not(sections: dict[str, str], target: str, kind: type[DeployError], said: str) -> None:
    with pytest.raises(kind) as raised:
        check_of(sections, target)
    assert type(raised.value) is kind
    assert said in str(raised.value)
    assert "it (me@it)" in str(raised.value)


def test_a_base_image_that_is_there_needs_no_room() -> None:
    needs = Needs(work=0, docker=0, base=1 << 30)
    little = PC | {"docker-free": "1000"}
    with pytest.raises(DeviceDiskFull):
        check_of(little, "cpu", needs)
    check_of(little | {"base-image": "sha256:0"}, "cpu", needs)


@pytest.mark.parametrize(
    ("sections", "target", "said"),
    [
        (NANO_SUPER_JP62, "orin-jp61", "power mode 15W, not the highest, MAXN_SUPER"),
        (NANO_SUPER_JP62, "orin-jp61", "clocks are not fixed"),
        (THOR_JP70, "thor-jp70", "power mode 120W, not the highest, MAXN"),
        (XAVIER_JP51 | {"power-modes": ""}, "xavier-jp51", "its highest mode is unknown"),
        (XAVIER_JP51 | {"power-mode": ""}, "xavier-jp51", "the power mode is unknown"),
        (ORIN_JP62 | {"temperature": "tj-thermal 91500"}, "orin-jp61", "92 °C"),
        (PC | {"memory": "MemTotal: 2000000 kB\nMemAvailable:   500000 kB"}, "cpu", "only 0.5 GiB"),
        (PC | {"cpu": "flags\t: sse2 avx"}, "cpu", "its CPU has none of avx512_vnni, avx_vnni, avx2"),
    ],
)
def test_what_belongs_beside_the_figures_is_no_error(sections: dict[str, str], target: str, said: str) -> None:
    assert any(said in note for note in check_of(sections, target))


def test_a_device_in_order_has_no_notes() -> None:
    assert check_of(ORIN_JP62, "orin-jp61") == []
    assert check_of(PC, "cpu") == []
