"""Check that a device matches its target and has what the work needs; every error has its cure.

Also runs the script that asks the device for its facts.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.devices.failures import parsing_answer
from pipeline.devices.inventory import Device
from pipeline.devices.preflight import Facts, fits, jetpack_of, read_facts
from pipeline.devices.ssh import Connection
from pipeline.errors import CommandMissing, DeployError, DeviceDiskFull, DeviceUnfit
from targets.gpu import Gpu
from targets.target import Target

GIB = 1 << 30
HOT = 80.0
LITTLE_MEMORY = GIB
# The system shows about 6 to 15 % less than a module's memory.
SHOWN_SHARE = 0.8


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Disk space in bytes that the work needs on a device."""

    work: int
    """In our folder on the device."""
    docker: int
    """For layers that are built."""
    base: int
    """For the base image, if it is not there yet; an estimate."""


USUAL = {
    "onnxruntime": Needs(work=200 << 20, docker=500 << 20, base=300 << 20),
    # NVIDIA's l4t-jetpack:r36.4.0 takes 15.5 GB, the images with only TensorRT less; exact sizes are unconfirmed.
    "tensorrt": Needs(work=500 << 20, docker=GIB, base=10 * GIB),
}
"""By runtime, before there is an artifact to measure."""


def check(device: Device, facts: Facts, target: Target, needs: Needs) -> list[str]:
    """Return notes for every figure of the device; raise `DeviceUnfit` or another error with the cure."""
    _check_platform(device, facts, target)
    if target.gpu is not None:
        _check_gpu(device, facts, target, target.gpu)
    _check_docker(device, facts)
    _check_disk(device, facts, needs)
    return _notes(facts, target)


def _check_platform(device: Device, facts: Facts, target: Target) -> None:
    if facts.l4t is not None and fits(facts.l4t, "32"):
        raise _unfit(
            device,
            f"it runs JetPack 4 (L4T {facts.l4t}), whose Python 3.6 and TensorRT 8.2 are not supported. Install "
            "JetPack 5 or later if the module supports it (Xavier and Orin do, Nano and TX2 do not)",
        )
    if facts.platform != target.platform:
        raise _unfit(
            device,
            f"it is {facts.platform}, the target {target.name} is {target.platform}. Use another target for it "
            "(deploy targets lists them)",
        )


def _check_gpu(device: Device, facts: Facts, target: Target, gpu: Gpu) -> None:
    if gpu.is_jetson:
        _check_jetson(device, facts, target, gpu)
    else:
        _check_card(device, facts, target, gpu)
    # Only the runtime provides a Jetson's devices and driver.
    has_way = "nvidia" in facts.runtimes or (facts.has_gpu_hook and not gpu.is_jetson)
    if not has_way and facts.docker is not None:
        package = "nvidia-container" if gpu.is_jetson else "nvidia-container-toolkit"
        known = ", ".join(facts.runtimes) or "none"
        raise _unfit(
            device,
            f"its Docker does not have the runtime nvidia (it has: {known}). Install and register it: sudo apt-get "
            f"install {package}; sudo nvidia-ctk runtime configure --runtime=docker; sudo systemctl restart docker",
        )


def _check_jetson(device: Device, facts: Facts, target: Target, gpu: Gpu) -> None:
    if facts.l4t is None:
        raise _unfit(
            device,
            f"it is not a Jetson (neither /etc/nv_tegra_release nor the package nvidia-l4t-core exists), but the "
            f"target {target.name} is. Use another target for it",
        )
    if not any(fits(facts.l4t, accepted) for accepted in gpu.l4t):
        release = facts.jetpack or jetpack_of(facts.l4t)
        shown = f"L4T {facts.l4t}" + (f" (JetPack {release})" if release else ", which is unknown here")
        raise _unfit(
            device,
            f"it runs {shown}; the target {target.name} is for L4T {' or '.join(gpu.l4t)} (JetPack {gpu.jetpack}). "
            "Use the target of its JetPack (deploy targets lists them), or install that JetPack",
        )
    least = gpu.memory_gib[0] * GIB * SHOWN_SHARE
    if facts.memory_bytes is not None and facts.memory_bytes < least:
        raise _unfit(
            device,
            f"it has {facts.memory_bytes / GIB:.1f} GiB of memory; the smallest module of the target {target.name} "
            f"has {gpu.memory_gib[0]}. Use another target for it",
        )


def _check_card(device: Device, facts: Facts, target: Target, gpu: Gpu) -> None:
    if facts.l4t is not None:
        raise _unfit(
            device,
            f"it is a Jetson (L4T {facts.l4t}), but the target {target.name} is a card. Use another target for it",
        )
    if not facts.cards:
        raise _unfit(
            device,
            "nvidia-smi shows no GPU. Install NVIDIA's driver "
            f"({gpu.driver.removeprefix('>=')} or later), or use a target without a GPU",
        )
    fitting = [card for card in facts.cards if card.compute_capability in gpu.compute_capability]
    if not fitting:
        there = ", ".join(f"{card.name} (compute capability {card.compute_capability})" for card in facts.cards)
        raise _unfit(
            device,
            f"it has {there}; the target {target.name} is for {' or '.join(gpu.compute_capability)}. Use another "
            "target for it",
        )
    least = int(gpu.driver.removeprefix(">=") or 0)
    if int(fitting[0].driver.split(".")[0] or 0) < least:
        raise _unfit(
            device,
            f"its driver is {fitting[0].driver}; the target {target.name} needs {least} or later. Install a newer one",
        )


def _check_docker(device: Device, facts: Facts) -> None:
    if facts.missing:
        raise CommandMissing(f"{_who(device)}: {', '.join(facts.missing)} is not installed. Install it.")
    if not facts.has_docker:
        raise CommandMissing(
            f"{_who(device)}: {' '.join(device.docker)} is not installed, or not on the PATH of a login without "
            "a terminal. Install it (Debian, Ubuntu: sudo apt-get install docker.io; JetPack includes it), or set the "
            "command in devices.toml (docker = …)."
        )
    if facts.docker is None:
        said = (facts.docker_problem or "nothing").splitlines()[-1]
        cure = "Start it there: sudo systemctl start docker"
        if "permission denied" in said.lower():
            cure = (
                f"Give {facts.user} access: sudo usermod -aG docker {facts.user}, then log in again; or set "
                'docker = "sudo docker" in devices.toml if sudo needs no password'
            )
        raise _unfit(device, f"its Docker engine does not answer. {cure}. It says: {said}")


def _check_disk(device: Device, facts: Facts, needs: Needs) -> None:
    docker = needs.docker + (0 if facts.has_base else needs.base)
    for what, free, needed in (
        (f"our folder {facts.work}", facts.work_free_bytes, needs.work),
        ("Docker's images", facts.docker_free_bytes, docker),
    ):
        if free is not None and free < needed:
            raise DeviceDiskFull(
                f"{_who(device)}: {free / 1e6:,.0f} MB are free for {what}, but about {needed / 1e6:,.0f} MB are "
                "needed. Free some space there (docker system df shows what images take), or set another folder in "
                "devices.toml."
            )


def _notes(facts: Facts, target: Target) -> list[str]:
    notes = []
    highest = facts.highest_power_mode
    if facts.power_mode is not None and facts.power_mode != highest:
        which = "its highest mode is unknown" if highest is None else f"not the highest, {highest}"
        if highest is not None or not facts.power_mode.startswith("MAXN"):
            notes.append(f"power mode {facts.power_mode}, {which} (sudo nvpmodel -m …)")
    if facts.clocks_pinned is False and facts.l4t is not None:
        notes.append("clocks are not fixed, so latencies vary (sudo jetson_clocks fixes them)")
    if facts.l4t is not None and facts.power_mode is None:
        notes.append("the power mode is unknown (nvpmodel -q prints nothing)")
    if facts.temperature is not None and facts.temperature >= HOT:
        notes.append(f"{facts.temperature:.0f} °C: it may throttle")
    if facts.memory_free_bytes is not None and facts.memory_free_bytes < LITTLE_MEMORY:
        notes.append(f"only {facts.memory_free_bytes / GIB:.1f} GiB of memory are free")
    if target.instruction_sets and not set(facts.instruction_sets) & set(target.instruction_sets):
        notes.append(
            f"its CPU has none of {', '.join(target.instruction_sets)}, which the target's int8 needs for speed"
        )
    return notes


def _unfit(device: Device, why: str) -> DeployError:
    return DeviceUnfit(f"{_who(device)}: {why}.")


def _who(device: Device) -> str:
    return f"{device.name} ({device.address})"


SCRIPT = Path(__file__).parent / "preflight.sh"


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A device that meets its target, with its facts."""

    facts: Facts
    notes: tuple[str, ...]
    """Notes for every figure of it, such as a power mode that is not the highest."""


def survey(connection: Connection, device: Device, target: Target, *, base: str, needs: Needs) -> Survey:
    """Ask and check the device; raise `DeviceUnfit`, `CommandMissing` or `DeviceDiskFull`; `base`: the base image."""
    answer = connection.run("asking what it is", SCRIPT.read_text(), base).stdout
    with parsing_answer(device, "its answer about itself"):
        facts = read_facts(answer)
        return Survey(facts=facts, notes=tuple(check(device, facts, target, needs)))
