"""Files that keep an image running on its device: a compose file, a systemd unit or a podman quadlet."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pipeline import __version__
from pipeline.containers.container import PORT, RIGHTS
from pipeline.errors import RecipeError
from pipeline.package.build_context import CACHE, GRPC_PORT
from pipeline.package.memory_limits import least_mib, limits_of

# The Dockerfile's HEALTHCHECK, which podman does not read from an image of the OCI format.
HEALTH_COMMAND = ("/opt/edge-deploy/bin/python", "-m", "targets.device", "healthcheck")
HEALTH_COMMAND_OF_TENSORRT = ("python3", *HEALTH_COMMAND[1:])
# Logs rotate within 30 MB, whatever the engine's default: they must not fill a device's disk over a year.
LOG_DRIVER = "local"
LOG_OPTIONS: Mapping[str, str] = {"max-size": "10m", "max-file": "3"}
HEALTH: Mapping[str, str] = {"interval": "30s", "timeout": "5s", "start_period": "60s", "retries": "3"}
# Docker's own default; the server finishes its requests within eight seconds.
STOP_SECONDS = 10
# Building an engine takes minutes, on a small module tens of minutes.
START_OF_TENSORRT = "60m"
RESTART_SECONDS = 2
ENGINES = f"/{CACHE.relative_to('cache')}"
REFERENCE = re.compile(r"[A-Za-z0-9][\w.:/@-]*", re.ASCII)
ADDRESS = re.compile(r"[0-9.]+|\[[0-9A-Fa-f:.]+\]", re.ASCII)


class Form(StrEnum):
    COMPOSE = "compose"
    SYSTEMD = "systemd"
    QUADLET = "quadlet"


@dataclass(frozen=True, kw_only=True)
class Service:
    """An image with its run options; raises `RecipeError` for an invalid value."""

    image: str
    port: int = 8000
    grpc_port: int = 0
    """0: gRPC is not published outside the container."""
    address: str = "127.0.0.1"
    memory_mib: int = 512
    with_gpu: bool = False
    """For an image with TensorRT: it gets the GPU, and its engines are stored outside the container."""

    def __post_init__(self) -> None:
        if not REFERENCE.fullmatch(self.image):
            raise RecipeError(f"{self.image!r} is not an image. Give its tag, such as name:0.1.0-cpu.")
        if not ADDRESS.fullmatch(self.address):
            raise RecipeError(
                f"--address {self.address} is not a machine's address: use 127.0.0.1, 0.0.0.0, [::] or its own."
            )
        if not 1 <= self.port <= 65535:
            raise RecipeError(f"--port {self.port} is not a port: use 1 to 65535.")
        if not 0 <= self.grpc_port <= 65535 or self.grpc_port == self.port:
            raise RecipeError(
                f"--grpc-port {self.grpc_port} is not usable besides --port {self.port}: 1 to 65535, or 0 for none."
            )
        least = least_mib(with_grpc=bool(self.grpc_port))
        if self.memory_mib < least:
            raise RecipeError(
                f"--memory {self.memory_mib}: at least {least} MiB, or clients exhaust it; large models need more."
            )

    @property
    def name(self) -> str:
        """Name of the container: registry:5000/group/model:1.0-cpu@sha256:… becomes edge-deploy-model."""
        return f"edge-deploy-{self.image.partition('@')[0].rpartition('/')[2].partition(':')[0]}"

    @property
    def pull(self) -> str:
        """Return the pull policy: an image without a registry was built here; a public one of that name is another."""
        return "missing" if "/" in self.image else "never"

    @property
    def published(self) -> list[str]:
        """Return the published ports on the device and in the container."""
        ports = [(self.port, PORT.partition("/")[0])]
        ports += [(self.grpc_port, str(GRPC_PORT))] if self.grpc_port else []
        return [f"{self.address}:{outside}:{inside}" for outside, inside in ports]

    @property
    def environment(self) -> dict[str, str]:
        limits = limits_of(self.memory_mib, with_grpc=bool(self.grpc_port))
        return {name: str(value) for name, value in limits.items()}

    @property
    def volumes(self) -> list[str]:
        return [f"{self.name}-engines:{ENGINES}"] if self.with_gpu else []

    @property
    def health_command(self) -> tuple[str, ...]:
        return HEALTH_COMMAND_OF_TENSORRT if self.with_gpu else HEALTH_COMMAND

    @property
    def health(self) -> dict[str, str]:
        return {**HEALTH, "start_period": START_OF_TENSORRT} if self.with_gpu else dict(HEALTH)

    @property
    def tmpfs(self) -> list[str]:
        return [f"{path}:{options}" for path, options in RIGHTS["tmpfs"].items()]


def emit(service: Service, form: Form) -> str:
    """Return the text of the file."""
    match form:
        case Form.COMPOSE:
            return _compose(service)
        case Form.SYSTEMD:
            return _systemd(service)
        case Form.QUADLET:
            return _quadlet(service)


def file_name(service: Service, form: Form) -> str:
    """Return the file name that Docker Compose, systemd or podman expects."""
    match form:
        case Form.COMPOSE:
            return "docker-compose.yml"
        case Form.SYSTEMD:
            return f"{service.name}.service"
        case Form.QUADLET:
            return f"{service.name}.container"


def docker_run(service: Service) -> list[str]:
    """Return the command that runs the image in the foreground until it is stopped."""
    words = ["docker", "run", "--rm", "--pull", service.pull, "--name", service.name]
    words += ["--read-only"] if RIGHTS["read_only"] else []
    words += _each("--cap-drop", RIGHTS["cap_drop"])
    words += _each("--security-opt", RIGHTS["security_opt"])
    words += _each("--tmpfs", service.tmpfs)
    words += ["--runtime", "nvidia"] if service.with_gpu else []
    words += _each("--volume", service.volumes)
    words += ["--pids-limit", str(RIGHTS["pids_limit"])]
    # Without its own limit for swap a container gets the same amount again.
    words += ["--memory", f"{service.memory_mib}m", "--memory-swap", f"{service.memory_mib}m"]
    words += ["--log-driver", LOG_DRIVER]
    words += _each("--log-opt", [f"{name}={value}" for name, value in LOG_OPTIONS.items()])
    words += ["--stop-timeout", str(STOP_SECONDS)]
    words += _each("--publish", service.published)
    words += _each("--env", [f"{name}={value}" for name, value in service.environment.items()])
    # The command is the image's own: given here, a shell would run it, which an image may not have.
    words += [word for name, value in service.health.items() for word in (f"--health-{name.replace('_', '-')}", value)]
    return [*words, service.image]


def _compose(service: Service) -> str:
    settings: dict[str, object] = {
        "image": service.image,
        "pull_policy": service.pull,
        "container_name": service.name,
        "restart": "unless-stopped",
        "read_only": RIGHTS["read_only"],
        "cap_drop": RIGHTS["cap_drop"],
        "security_opt": RIGHTS["security_opt"],
        "tmpfs": service.tmpfs,
        **({"runtime": "nvidia", "volumes": service.volumes} if service.with_gpu else {}),
        "pids_limit": RIGHTS["pids_limit"],
        "mem_limit": f"{service.memory_mib}m",
        "memswap_limit": f"{service.memory_mib}m",
        "logging": {"driver": LOG_DRIVER, "options": LOG_OPTIONS},
        "stop_grace_period": f"{STOP_SECONDS}s",
        "ports": service.published,
        "environment": service.environment,
        "healthcheck": {"test": ["CMD", *service.health_command], **service.health, "retries": int(HEALTH["retries"])},
    }
    head = f"# Written by edge-deploy {__version__}. Start: docker compose up --detach\n"
    # Otherwise the folder's name would be added to it.
    named = {volume: {"name": volume} for volume, _, _ in (each.partition(":") for each in service.volumes)}
    return head + _yaml({"services": {service.name: settings}, **({"volumes": named} if named else {})})


def _systemd(service: Service) -> str:
    docker, *words = docker_run(service)
    lines = " \\\n    ".join(_by_option([f"/usr/bin/{docker}", *map(_quote, words)]))
    return f"""\
# Written by edge-deploy {__version__}. Install: copy to /etc/systemd/system, then
#   systemctl daemon-reload && systemctl enable --now {service.name}
[Unit]
Description=Edge Deploy model server, {service.image}
Requires=docker.service
After=docker.service network.target
StartLimitIntervalSec=0

[Service]
ExecStartPre=-/usr/bin/docker rm --force {service.name}
ExecStart={lines}
ExecStop=/usr/bin/docker stop --time {STOP_SECONDS} {service.name}
Restart=always
RestartSec={RESTART_SECONDS}
TimeoutStopSec={2 * STOP_SECONDS}

[Install]
WantedBy=multi-user.target
"""


def _quadlet(service: Service) -> str:
    options = [f"--memory={service.memory_mib}m", f"--memory-swap={service.memory_mib}m"]
    options += [f"--stop-timeout={STOP_SECONDS}"]
    container = [
        ("Image", service.image),
        ("Pull", service.pull),
        ("ContainerName", service.name),
        ("ReadOnly", str(RIGHTS["read_only"]).lower()),
        *[("DropCapability", each.lower()) for each in RIGHTS["cap_drop"]],
        ("NoNewPrivileges", str("no-new-privileges:true" in RIGHTS["security_opt"]).lower()),
        # Otherwise podman mounts more of them, and with other options.
        ("ReadOnlyTmpfs", "false"),
        *[("Tmpfs", each) for each in service.tmpfs],
        *([("AddDevice", "nvidia.com/gpu=all")] if service.with_gpu else []),
        *[("Volume", each) for each in service.volumes],
        ("PidsLimit", str(RIGHTS["pids_limit"])),
        *[("PublishPort", each) for each in service.published],
        *[("Environment", f"{name}={value}") for name, value in service.environment.items()],
        ("HealthCmd", json.dumps(list(service.health_command))),
        ("HealthInterval", HEALTH["interval"]),
        ("HealthTimeout", HEALTH["timeout"]),
        ("HealthStartPeriod", service.health["start_period"]),
        ("HealthRetries", HEALTH["retries"]),
        # A hanging server is killed, and systemd restarts it.
        ("HealthOnFailure", "kill"),
        *[("PodmanArgs", option) for option in options],
    ]
    lines = "\n".join(f"{key}={value}" for key, value in container)
    return f"""\
# Written by edge-deploy {__version__}, for podman 5. Install: copy to /etc/containers/systemd, then
#   systemctl daemon-reload && systemctl start {service.name}
[Unit]
Description=Edge Deploy model server, {service.image}
StartLimitIntervalSec=0

[Container]
{lines}

[Service]
Restart=always
RestartSec={RESTART_SECONDS}
TimeoutStopSec={2 * STOP_SECONDS}

[Install]
WantedBy=multi-user.target
"""


def _yaml(mapping: Mapping[str, object], depth: int = 0) -> str:
    """Return block style; every scalar as JSON, which YAML reads the same way: 127.0.0.1:22:8000 stays a string."""
    text = ""
    for key, value in mapping.items():
        text += "  " * depth + f"{key}:"
        if isinstance(value, Mapping):
            text += "\n" + _yaml(value, depth + 1)
        elif isinstance(value, list):
            text += "\n" + "".join("  " * (depth + 1) + f"- {json.dumps(each)}\n" for each in value)
        else:
            text += f" {json.dumps(value)}\n"
    return text


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _quote(word: str) -> str:
    """Quote for systemd: quotes around spaces, and % and $ escaped."""
    text = word.replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if " " in text else text


def _by_option(words: Sequence[str]) -> list[str]:
    """Return one line for each option with its value; the image gets its own."""
    lines = [words[0]]
    for word in words[1:-1]:
        if word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return [*lines, words[-1]]
