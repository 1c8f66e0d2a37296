"""Parse a device's facts from the output of `preflight.sh`.

Also maps the version of Jetson Linux (L4T) to its JetPack, from the release notes of NVIDIA and of OE4T's meta-tegra,
which has a branch for each.
"""

import re
from dataclasses import dataclass

from pipeline.errors import DeviceError
from pipeline.untrusted import parse_json
from targets.device.model.cpu import instruction_sets

KNOWN = (
    ("32", "4"),
    ("35.2", "5.1"),
    ("35.3", "5.1.1"),
    ("35.4", "5.1.2"),
    ("35.5", "5.1.3"),
    ("35.6.0", "5.1.4"),
    ("35.6.4", "5.1.6"),
    ("35.6", "5.1.5"),
    ("36.2", "6.0 (developer preview)"),
    ("36.3", "6.0"),
    ("36.4.0", "6.1"),
    ("36.4.3", "6.2"),
    ("36.4", "6.2.1"),
    ("36.5", "6.2.2"),
    ("38.2", "7.0"),
    ("38.4", "7.1"),
    ("39.2", "7.2"),
)
"""The first match counts."""


def jetpack_of(l4t: str) -> str | None:
    """Return `6.2` for `36.4.3`; None for an unknown release."""
    whole = l4t if l4t.count(".") > 1 else f"{l4t}.0"
    return next((jetpack for beginning, jetpack in KNOWN if fits(whole, beginning)), None)


def fits(version: str, beginning: str) -> bool:
    """Whether a version starts with these parts: `36.4` matches 36.4.3, but not 36.40."""
    return version == beginning or version.startswith(f"{beginning}.")


PLATFORMS = {"x86_64": "linux/amd64", "amd64": "linux/amd64", "aarch64": "linux/arm64", "arm64": "linux/arm64"}
KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Card:
    """An NVIDIA GPU in a PC or server."""

    name: str
    driver: str
    compute_capability: str
    memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A device's state at one moment; None: not reported."""

    platform: str
    user: str
    work: str
    """Our folder on the device, resolved."""
    l4t: str | None
    """None: not a Jetson."""
    jetpack: str | None
    model: str | None
    power_mode: str | None
    power_modes: tuple[str, ...]
    """All modes of the board."""
    clocks_pinned: bool | None
    cards: tuple[Card, ...]
    docker: str | None
    """Version of the running engine."""
    docker_problem: str | None
    """Docker's message if it reports no version; None also if it is not installed."""
    has_docker: bool
    runtimes: tuple[str, ...]
    has_gpu_hook: bool
    """Whether the hook for Docker's `--gpus` is installed."""
    has_base: bool
    missing: tuple[str, ...]
    """Programs that our scripts need and that are not installed."""
    work_free_bytes: int | None
    docker_free_bytes: int | None
    memory_bytes: int | None
    memory_free_bytes: int | None
    temperature: float | None
    """Degrees Celsius of the hottest zone."""
    instruction_sets: tuple[str, ...]
    """Of the CPU, best first, by the names of `targets.device.model.cpu`."""

    @property
    def highest_power_mode(self) -> str | None:
        """Return MAXN, or the mode with most watts; None if the board does not list its modes."""
        unlimited = sorted(mode for mode in self.power_modes if mode.startswith("MAXN"))
        if unlimited:
            return unlimited[-1]
        watts = {int(found[1]): mode for mode in self.power_modes if (found := re.search(r"(\d+) ?W", mode))}
        return watts[max(watts)] if watts else None


def read_facts(text: str) -> Facts:
    """Parse the output; raise `DeviceError` if it is truncated or unknown."""
    found = _sections(text)
    if "end" not in found or found.get("machine", "") == "":
        raise DeviceError("the device's answer about itself is truncated. Run again.")
    l4t = _l4t(found)
    version = re.fullmatch(r"\w+/\w+ (\S+)", found["docker-version"])
    has_docker = bool(found["docker-command"])
    memory = dict(re.findall(r"(\w+): +(\d+) kB", found["memory"]))
    return Facts(
        platform=PLATFORMS.get(found["machine"], f"linux/{found['machine']}"),
        user=found["user"],
        work=found["work"],
        l4t=l4t,
        jetpack=None if l4t is None else jetpack_of(l4t),
        model=found["model"] or None,
        power_mode=_power_mode(found["power-mode"]),
        power_modes=tuple(re.findall(r"NAME=(\S+)", found["power-modes"])),
        clocks_pinned=_pinned(found["clocks"]),
        cards=tuple(map(_card, found["nvidia-smi"].splitlines())) if "," in found["nvidia-smi"] else (),
        docker=version[1] if version is not None else None,
        docker_problem=found["docker-version"] if version is None and has_docker else None,
        has_docker=has_docker,
        runtimes=_runtimes(found["docker-runtimes"]),
        has_gpu_hook=bool(found["gpu-hook"]),
        has_base=bool(found["base-image"]),
        missing=tuple(found["programs"].split()),
        work_free_bytes=_bytes(found["work-free"]),
        docker_free_bytes=_bytes(found["docker-free"]),
        memory_bytes=_bytes(memory.get("MemTotal", "")),
        memory_free_bytes=_bytes(memory.get("MemAvailable", "")),
        temperature=_hottest(found["temperature"]),
        instruction_sets=instruction_sets(cpuinfo=found["cpu"], machine=found["machine"]),
    )


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^@@ ([\w-]+)$", text, flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _l4t(found: dict[str, str]) -> str | None:
    """Find it as `targets.device.nvidia.machine.l4t_version` does: NVIDIA's file, else its package."""
    release = re.match(r"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", found["release"])
    if release is not None:
        return f"{release[1]}.{release[2]}"
    package = re.match(r"ii\s+(\d+(?:\.\d+)+)", found["l4t-core"])
    return None if package is None else package[1]


def _power_mode(text: str) -> str | None:
    found = re.search(r"^NV Power Mode: *(.+?) *$", text, re.MULTILINE)
    return None if found is None else found[1]


def _pinned(text: str) -> bool | None:
    """Whether every clock of CPU and GPU is fixed; None if the device reports none."""
    ranges = [line.split()[2:] for line in text.splitlines()]
    return all(len(each) == 2 and each[0] == each[1] for each in ranges) if ranges else None


def _card(line: str) -> Card:
    name, driver, capability, memory = [*line.split(","), "", "", ""][:4]
    size = memory.strip()
    return Card(
        name=name.strip(),
        driver=driver.strip(),
        compute_capability=capability.strip(),
        memory_bytes=int(size) * KIB * KIB if size.isdecimal() else None,
    )


def _bytes(kibibytes: str) -> int | None:
    return int(kibibytes) * KIB if kibibytes.isdecimal() else None


def _hottest(text: str) -> float | None:
    """Return the hottest zone; zones that are off report -256 °C or nothing."""
    degrees = [int(value) / 1000 for value in re.findall(r" (-?\d+)$", text, re.MULTILINE)]
    return max((each for each in degrees if each > -50), default=None)


def _runtimes(text: str) -> tuple[str, ...]:
    """Return the names of Docker's runtimes; empty for any other output."""
    try:
        raw = parse_json(text or "{}")
    except ValueError:
        return ()
    return tuple(sorted(raw)) if isinstance(raw, dict) else ()
