"""Compose file, systemd unit and quadlet: complete, in step with our own containers, accepted by who reads them."""

import configparser
import itertools
import json
import re
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_server import free_port
from docker.models.containers import Container
from docker.types import LogConfig
from repository import REPOSITORY
from tiny_package import Packaged
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.containers import engine as engines
from pipeline.containers.client import InferenceClient
from pipeline.containers.container import RIGHTS, remove
from pipeline.containers.engine import Engine
from pipeline.errors import EngineMissing, RecipeError
from pipeline.package.labels import RUNTIME, needs_gpu
from pipeline.package.service_files import (
    ENGINES,
    HEALTH,
    HEALTH_COMMAND,
    LOG_DRIVER,
    LOG_OPTIONS,
    Form,
    Service,
    docker_run,
    emit,
    file_name,
)
from targets.device.model.manifest import Manifest
from targets.shipped import shipped

IMAGE = "group.example:5000/team/model:1.0-cpu"
SERVICE = Service(image=IMAGE, address="127.0.0.1", port=8123, memory_mib=256)


def parsed(text: str, indent: int = 0) -> Any:
    """The mappings, lists and scalars of a block of YAML; anything else in it is an error."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    value, rest = block(lines, indent)
    assert rest == []
    return value


def block(lines: list[str], indent: int) -> tuple[Any, list[str]]:
    if lines[0].startswith(" " * indent + "- "):
        items = []
        while lines and lines[0].startswith(" " * indent + "- "):
            items.append(json.loads(lines.pop(0)[indent + 2 :]))
        return items, lines
    mapping: dict[str, Any] = {}
    while lines and (match := re.fullmatch(" " * indent + r"([\w.-]+):(?: (.+))?", lines[0])):
        lines = lines[1:]
        assert match[1] not in mapping
        if match[2] is not None:
            mapping[match[1]] = json.loads(match[2])
        else:
            mapping[match[1]], lines = block(lines, indent + 2)
    assert mapping, lines[:1]
    return mapping, lines


def section(text: str, name: str) -> dict[str, list[str]]:
    """What a unit says in one section; a key may be given several times."""
    found: dict[str, list[str]] = {}
    current = ""
    for line in text.replace("\\\n", "").splitlines():
        if line.startswith("["):
            current = line.strip("[]")
        elif line and not line.startswith("#") and current == name:
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def command_of(unit: str) -> list[str]:
    (line,) = section(unit, "Service")["ExecStart"]
    return shlex.split(line.replace("%%", "%").replace("$$", "$"))


def compose_settings(service: Service) -> dict[str, Any]:
    ((name, settings),) = parsed(emit(service, Form.COMPOSE))["services"].items()
    assert name == service.name == settings["container_name"]
    assert isinstance(settings, dict)
    return settings


def test_a_compose_file_gives_every_right_that_our_own_containers_have_and_no_other() -> None:
    settings = compose_settings(SERVICE)
    tmpfs = dict(each.split(":", 1) for each in settings["tmpfs"])
    assert {key: tmpfs if key == "tmpfs" else settings[key] for key in RIGHTS} == RIGHTS
    assert not {"privileged", "cap_add", "devices", "network_mode", "volumes", "user"} & set(settings)
    assert settings["image"] == IMAGE
    assert settings["ports"] == ["127.0.0.1:8123:8000"]
    assert settings["mem_limit"] == settings["memswap_limit"] == "256m"
    assert settings["restart"] == "unless-stopped"


def test_a_unit_gives_every_right_that_our_own_containers_have() -> None:
    words = command_of(emit(SERVICE, Form.SYSTEMD))
    assert words == ["/usr/bin/docker", *docker_run(SERVICE)[1:]]
    options = dict(itertools.pairwise(words))
    assert "--read-only" in words
    assert [options["--cap-drop"]] == RIGHTS["cap_drop"]
    assert [options["--security-opt"]] == RIGHTS["security_opt"]
    assert [options["--tmpfs"]] == [f"{path}:{value}" for path, value in RIGHTS["tmpfs"].items()]
    assert options["--pids-limit"] == str(RIGHTS["pids_limit"])
    assert options["--memory"] == options["--memory-swap"] == "256m"
    assert options["--publish"] == "127.0.0.1:8123:8000"
    assert words[-1] == IMAGE
    assert section(emit(SERVICE, Form.SYSTEMD), "Service")["Restart"] == ["always"]


def test_a_quadlet_gives_every_right_that_our_own_containers_have() -> None:
    said = section(emit(SERVICE, Form.QUADLET), "Container")
    assert said["ReadOnly"] == said["NoNewPrivileges"] == ["true"]
    assert [each.upper() for each in said["DropCapability"]] == RIGHTS["cap_drop"]
    assert said["Tmpfs"] == [f"{path}:{value}" for path, value in RIGHTS["tmpfs"].items()]
    assert said["ReadOnlyTmpfs"] == ["false"]
    assert said["PidsLimit"] == [str(RIGHTS["pids_limit"])]
    assert {"--memory=256m", "--memory-swap=256m"} <= set(said["PodmanArgs"])
    assert tuple(json.loads(said["HealthCmd"][0])) == HEALTH_COMMAND
    assert said["HealthOnFailure"] == ["kill"]


def test_grpc_is_published_where_it_is_asked_for_on_the_same_address() -> None:
    service = Service(image=IMAGE, address="[::1]", port=8123, grpc_port=8124)
    both = ["[::1]:8123:8000", "[::1]:8124:8001"]
    assert compose_settings(service)["ports"] == both
    words = command_of(emit(service, Form.SYSTEMD))
    assert [words[index + 1] for index, word in enumerate(words) if word == "--publish"] == both
    assert section(emit(service, Form.QUADLET), "Container")["PublishPort"] == both
    with pytest.raises(RecipeError, match="--grpc-port 8123 is not usable besides --port 8123"):
        Service(image=IMAGE, port=8123, grpc_port=8123)
    with pytest.raises(RecipeError, match="--grpc-port 65536 is not usable"):
        Service(image=IMAGE, grpc_port=65536)


def test_no_right_is_without_a_word_for_it() -> None:
    """One that is added to our own containers must be written into all three files, and into this list."""
    assert set(RIGHTS) == {"read_only", "cap_drop", "security_opt", "tmpfs", "pids_limit"}


def test_the_health_check_is_the_dockerfiles() -> None:
    text = (REPOSITORY / "docker" / "onnxruntime.Dockerfile").read_text()
    (options, command) = re.search(r"HEALTHCHECK (.+?) \\\n\s+CMD (.+)", text).groups()  # type: ignore[union-attr]
    stated = dict(word.removeprefix("--").split("=") for word in options.split())
    assert stated == {name.replace("_", "-"): value for name, value in HEALTH.items()}
    assert tuple(json.loads(command)) == HEALTH_COMMAND


@pytest.mark.parametrize(
    ("image", "name", "pull"),
    [
        pytest.param("model:1.0-cpu", "edge-deploy-model", "never", id="made here"),
        pytest.param(IMAGE, "edge-deploy-model", "missing", id="in a registry"),
        pytest.param("team/model@sha256:" + "0" * 64, "edge-deploy-model", "missing", id="by digest"),
    ],
)
def test_a_name_without_a_registry_is_never_fetched_from_a_public_one(image: str, name: str, pull: str) -> None:
    service = Service(image=image, address="127.0.0.1", port=1, memory_mib=96)
    assert service.name == name
    assert compose_settings(service)["pull_policy"] == pull
    assert section(emit(service, Form.QUADLET), "Container")["Pull"] == [pull]
    assert f"--pull {pull} " in emit(service, Form.SYSTEMD).replace("\\\n", "")


@pytest.mark.parametrize(
    ("memory_mib", "limits"),
    [(96, (1, 1, 8, 4, 64)), (128, (1, 3, 16, 8, 128)), (512, (7, 24, 16, 56, 896)), (65536, (64, 64, 16, 64, 1024))],
)
def test_what_clients_may_take_fits_in_the_memory(memory_mib: int, limits: tuple[int, ...]) -> None:
    service = Service(image=IMAGE, address="127.0.0.1", port=1, memory_mib=memory_mib)
    names = ("MAX_BODY_MIB", "MAX_IMAGE_MIPIXELS", "MAX_WAITING", "MAX_HELD_MIB", "MAX_CONNECTIONS")
    assert compose_settings(service)["environment"] == dict(zip(names, map(str, limits), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"image": "model\nprivileged: true"}, "is not an image", id="image of two lines"),
        pytest.param({"image": "--privileged"}, "is not an image", id="image that is an option"),
        pytest.param({"address": "everywhere"}, "--address everywhere is not a machine's address", id="address"),
        pytest.param({"port": 0}, "--port 0 is not a port", id="port"),
        pytest.param({"port": 65536}, "--port 65536 is not a port", id="port too high"),
        pytest.param({"memory_mib": 95}, "at least 96 MiB", id="memory"),
        pytest.param({"memory_mib": 111, "grpc_port": 2}, "at least 112 MiB", id="memory of gRPC"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"image": IMAGE, "address": "[::1]", "port": 1, "memory_mib": 112, **changes}
    with pytest.raises(RecipeError, match=re.escape(message)):
        Service(**given)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = emit(SERVICE, Form.SYSTEMD)
    # It looks whether programs and units named there exist on this machine.
    here = text.replace("/usr/bin/docker", "/bin/true").replace("Requires=docker.service\n", "")
    path = tmp_path / file_name(SERVICE, Form.SYSTEMD)
    path.write_text(here)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, timeout=60)
    assert path.name not in done.stderr, done.stderr
    path.write_text(here.replace("Restart=always", "Restart=sometimes"))
    wrong = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, timeout=60)
    assert "sometimes" in wrong.stderr


@pytest.mark.parametrize("form", list(Form))
def test_every_unit_is_an_ini_file_with_what_starts_it_at_boot(form: Form) -> None:
    if form is Form.COMPOSE:
        return
    reader = configparser.RawConfigParser(strict=False)
    reader.read_string(emit(SERVICE, form).replace("\\\n", ""))
    assert reader["Install"]["WantedBy"] == "multi-user.target"
    assert reader["Unit"]["StartLimitIntervalSec"] == "0"


def test_the_command_prints_or_writes_the_file(tmp_path: Path) -> None:
    arguments = ["emit", IMAGE, "--as", "systemd", "--port", "8123", "--memory", "256"]
    printed = CliRunner().invoke(app, arguments)
    assert printed.stdout == emit(SERVICE, Form.SYSTEMD)
    assert CliRunner().invoke(app, [*arguments, "--output", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "edge-deploy-model.service").read_text() == printed.stdout
    failed = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "gone" / "file")])
    assert isinstance(failed.exception, RecipeError)
    unknown = CliRunner().invoke(app, ["emit", IMAGE, "--as", "compse"])
    assert "Did you mean compose?" in str(unknown.exception)


@pytest.fixture
def container(engine: Engine, packaged: Packaged) -> Iterator[tuple[str, Service]]:
    """A name of its own, and the service of the packaged image on a free port."""
    service = Service(image=packaged.image.tag, address="127.0.0.1", port=free_port(), memory_mib=256)
    name = f"operate-{uuid.uuid4().hex[:8]}"
    yield name, service
    remove(engine, name)


def answers_as_expected(engine: Engine, name: str, service: Service, manifest: Manifest) -> Container:
    """The container, after it became ready and answered."""
    client = InferenceClient("127.0.0.1", service.port, manifest)
    deadline = time.monotonic() + 60
    while not client.readiness().is_ready:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    logits = client.infer(np.zeros((2, *manifest.input_shape), np.float32))
    client.close()
    assert logits.shape == (2, len(manifest.classes))
    return engine.client.containers.get(name)


def check_is_confined(found: Container, service: Service) -> None:
    host = found.attrs["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == RIGHTS["cap_drop"]
    assert host["SecurityOpt"] == RIGHTS["security_opt"]
    assert host["Tmpfs"] == RIGHTS["tmpfs"]
    assert host["PidsLimit"] == RIGHTS["pids_limit"]
    assert host["LogConfig"] == {"Type": LOG_DRIVER, "Config": LOG_OPTIONS}
    assert host["Memory"] == host["MemorySwap"] == service.memory_mib << 20
    assert found.attrs["Config"]["Healthcheck"]["Test"] == ["CMD", *HEALTH_COMMAND]
    assert f"MAX_BODY_MIB={service.environment['MAX_BODY_MIB']}" in found.attrs["Config"]["Env"]


@pytest.mark.docker
def test_a_container_with_the_settings_of_the_compose_file_answers(
    engine: Engine, packaged: Packaged, container: tuple[str, Service]
) -> None:
    name, service = container
    settings = compose_settings(service)
    address, port, inside = settings.pop("ports")[0].rsplit(":", 2)
    check, logging = settings.pop("healthcheck"), settings.pop("logging")
    seconds = {key: int(check[key].removesuffix("s")) * 10**9 for key in ("interval", "timeout", "start_period")}
    del settings["container_name"], settings["pull_policy"], settings["stop_grace_period"]
    engine.client.containers.create(
        settings.pop("image"),
        name=name,
        ports={f"{inside}/tcp": (address, int(port))},
        healthcheck={"test": check["test"], "retries": check["retries"], **seconds},
        restart_policy={"Name": settings.pop("restart")},
        tmpfs=dict(each.split(":", 1) for each in settings.pop("tmpfs")),
        log_config=LogConfig(type=logging["driver"], config=logging["options"]),
        # What is left has the same name in the SDK; another one is refused by it.
        **settings,
    ).start()
    check_is_confined(answers_as_expected(engine, name, service, packaged.tiny.manifest), service)


@pytest.mark.docker
@pytest.mark.skipif(shutil.which("docker") is None, reason="no docker command")
def test_the_command_of_the_unit_runs_a_container_that_answers(
    engine: Engine, packaged: Packaged, container: tuple[str, Service]
) -> None:
    name, service = container
    words = [name if word == service.name else word for word in command_of(emit(service, Form.SYSTEMD))]
    with subprocess.Popen(["docker", *words[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            check_is_confined(answers_as_expected(engine, name, service, packaged.tiny.manifest), service)
            # As systemd ends it: the command hands the signal on, and the server finishes.
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


GPU = replace(SERVICE, with_gpu=True, memory_mib=4096)


def test_a_gpus_image_gets_the_gpu_a_volume_for_its_engines_and_time_to_build_them() -> None:
    (settings,) = parsed(emit(GPU, Form.COMPOSE))["services"].values()
    assert settings["runtime"] == "nvidia"
    assert settings["volumes"] == ["edge-deploy-model-engines:/var/cache/edge-deploy"]
    assert settings["healthcheck"]["test"][:2] == ["CMD", "python3"]
    assert settings["healthcheck"]["start_period"] == "60m"
    assert parsed(emit(GPU, Form.COMPOSE))["volumes"] == {
        "edge-deploy-model-engines": {"name": "edge-deploy-model-engines"}
    }
    words = docker_run(GPU)
    assert words[words.index("--runtime") + 1] == "nvidia"
    assert words[words.index("--volume") + 1] == "edge-deploy-model-engines:/var/cache/edge-deploy"
    quadlet = emit(GPU, Form.QUADLET)
    assert "\nAddDevice=nvidia.com/gpu=all\n" in quadlet
    assert "\nVolume=edge-deploy-model-engines:/var/cache/edge-deploy\n" in quadlet


def test_the_volume_and_the_health_check_are_those_of_the_dockerfile() -> None:
    text = shipped("tensorrt.Dockerfile").read_text()
    assert f"\nVOLUME {ENGINES}\n" in text
    assert f"ENGINE_CACHE={ENGINES} " in text
    assert f"CMD {json.dumps(list(GPU.health_command))}\n" in text
    assert f"--start-period={GPU.health['start_period']} " in text


@pytest.mark.parametrize("form", Form)
def test_a_cpus_image_gets_nothing_of_that(form: Form) -> None:
    text = emit(SERVICE, form)
    assert not [word for word in ("nvidia", "engines", "60m") if word in text]


@pytest.mark.parametrize(
    ("tag", "options", "with_gpu", "memory"),
    [
        ("model:0.1.0-orin-jp72", [], True, "4096m"),
        ("model:0.1.0-cpu", [], False, "512m"),
        ("model:0.1.0-my-board", ["--gpu"], True, "4096m"),
        ("model:0.1.0-orin-jp72", ["--no-gpu", "--memory", "700"], False, "700m"),
    ],
)
def test_the_target_in_the_tag_says_whether_a_gpu_is_needed(
    tag: str, options: list[str], with_gpu: bool, memory: str
) -> None:
    done = CliRunner().invoke(app, ["emit", tag, *options])
    (settings,) = parsed(done.stdout)["services"].values()
    assert ("runtime" in settings) is with_gpu
    assert settings["mem_limit"] == memory


class StandIn:
    """An engine with one image."""

    def __init__(self, labels: dict[str, str] | None) -> None:
        self.labels = labels

    def labels_of(self, image: str) -> dict[str, str] | None:
        del image
        return self.labels

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("tag", "labels", "with_gpu", "note"),
    [
        pytest.param("model:1-my-board", {RUNTIME: "tensorrt 10.3.0"}, True, "", id="label of TensorRT"),
        pytest.param("model:1-orin-jp72", {RUNTIME: "onnxruntime 1.29.0"}, False, "", id="label against the tag"),
        pytest.param("model:1-orin-jp72", {"other": "x"}, True, "has no label", id="image of others"),
        pytest.param("model:1-orin-jp72", None, True, "not on this machine", id="image elsewhere"),
        pytest.param("model:1-my-board", None, False, "needs no GPU", id="unknown target elsewhere"),
    ],
)
def test_the_label_says_whether_an_image_needs_a_gpu(
    tag: str, labels: dict[str, str] | None, with_gpu: bool, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "connect", lambda: StandIn(labels))
    done = CliRunner().invoke(app, ["emit", tag])
    assert done.exit_code == 0, done.output
    assert ("nvidia" in done.stdout) is with_gpu
    assert note in done.stderr
    assert bool(note) is bool(done.stderr)


def test_without_an_engine_the_tag_says_whether_an_image_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise EngineMissing("no engine")

    monkeypatch.setattr(engines, "connect", missing)
    done = CliRunner().invoke(app, ["emit", "model:1-orin-jp72"])
    assert "nvidia" in done.stdout
    assert "no Docker engine answers" in done.stderr
    asked = CliRunner().invoke(app, ["emit", "model:1-orin-jp72", "--no-gpu"])
    assert "nvidia" not in asked.stdout
    assert asked.stderr == ""


def test_a_label_names_the_runtime_before_its_version() -> None:
    assert needs_gpu({}) is None
    assert needs_gpu({RUNTIME: "tensorrt"}) is True
    assert needs_gpu({RUNTIME: "onnxruntime 1.22"}) is False
