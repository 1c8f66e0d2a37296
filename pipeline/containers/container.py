"""Containers of an image: started without privileges, asked over HTTP, and always removed.

Also the address of a container's port, on this machine or on a remote engine's.

Also a /proc/cpuinfo for containers that QEMU emulates.
"""

import io
import json
import os
import socket
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docker.errors import APIError, NotFound
from docker.models.containers import Container

from pipeline.containers.client import InferenceClient
from pipeline.containers.engine import LOG_LINES, Engine, engine_call
from pipeline.errors import PackageError
from pipeline.progress import Progress
from targets.device.model.manifest import FILE, Manifest, ManifestError, read_manifest
from targets.device.model.variant import FOLDER, SATURATION_SAFE

ANY_PORT = 0


def usual_port_if_free(address: str, usual: str) -> int:
    """Return the port of `usual`, such as 8000/tcp, or any port if another program of this machine uses it."""
    number = int(usual.partition("/")[0])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, number))
        except OSError:
            return ANY_PORT
    return number


def addresses(engine: Engine) -> tuple[str, str]:
    """Return the addresses to bind and to connect to: a remote engine publishes on its own host."""
    url = urlsplit(engine.client.api.base_url)
    if url.scheme == "ssh" or os.environ.get("DOCKER_HOST", "").startswith("ssh://"):
        raise PackageError(
            f"the engine at {os.environ.get('DOCKER_HOST')} is reached through SSH, but its containers cannot be. "
            "Build on that machine, or give its address as DOCKER_HOST=tcp://…"
        )
    host = urlsplit(os.environ.get("DOCKER_HOST", "")).hostname
    if host in (None, "localhost", "127.0.0.1", "::1") or os.environ["DOCKER_HOST"].startswith("unix"):
        return "127.0.0.1", "127.0.0.1"
    assert host is not None
    return "0.0.0.0", host


# QEMU's user mode emulation up to 7.2 shows the host's file, and the cpuinfo library in ONNX Runtime for ARM
# crashes on that of an x86 CPU. It reads the core's vendor from it, here an Arm Cortex-A76, and its features from the
# auxiliary vector, which is QEMU's.
CORE = "processor\t: {}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\n\n"


@contextmanager
def volumes_for(engine: Engine, image: str) -> Iterator[dict[str, dict[str, str]]]:
    """Return the mounts for a container of `image`, in the SDK's format; empty if the engine runs it natively."""
    if not engine.emulates(image):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="edge-deploy-") as folder:
        shown = Path(folder) / "cpuinfo"
        shown.write_text("".join(CORE.format(index) for index in range(os.cpu_count() or 1)))
        Path(folder).chmod(0o755)
        yield {str(shown): {"bind": "/proc/cpuinfo", "mode": "ro"}}


OWNER = "dev.edge-deploy.owner"
STAYS = "dev.edge-deploy.stays"
MODEL_FOLDER = "/opt/edge-deploy/model"
PORT = "8000/tcp"
READY_SECONDS = 120.0
ANSWER_SECONDS = 300.0
"""Per request of the server's largest batch."""
EMULATION = 12.0
"""Factor for both timeouts of an emulated container; a ResNet in int8 takes about 20 to 50 times as long."""
POLL_SECONDS = 0.05
RIGHTS: dict[str, Any] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=16m"},
    "pids_limit": 256,
}
"""Restrictions of every container that we start, also used by `docker_run`."""


class NeverReady(PackageError):
    """The server runs, but reports why it will never be ready."""

    def __init__(self, image: str, reason: str, container: Container) -> None:
        super().__init__(f"a container of {image} does not become ready: {reason}.{_end_of_log(container)}")
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Started:
    """A container, and the seconds since its start was requested."""

    container: Container
    client: InferenceClient
    ready_seconds: float


@contextmanager
def running(
    engine: Engine, image: str, *, progress: Progress, stay_as: str | None = None, model_folder: str = MODEL_FOLDER
) -> Iterator[InferenceClient]:
    """Yield a client of a server of `image`, see `started`."""
    with started(engine, image, progress=progress, stay_as=stay_as, model_folder=model_folder) as server:
        yield server.client


@contextmanager
def started(
    engine: Engine, image: str, *, progress: Progress, stay_as: str | None = None, model_folder: str = MODEL_FOLDER
) -> Iterator[Started]:
    """Start a server of `image` and wait until it is ready; raise `PackageError` with the end of its log on failure.

    `model_folder` is another artifact of the image than the default one. For the rest see `launched`.
    """
    patience = EMULATION if engine.emulates(image) else 1.0
    environment = {} if model_folder == MODEL_FOLDER else {"MODEL_FOLDER": model_folder}
    with launched(engine, image, stay_as=stay_as, environment=environment) as server:
        client = server.client
        start = time.monotonic()
        wait_until_ready(client, server.container, image, seconds=patience * READY_SECONDS)
        ready_seconds = server.ready_seconds + time.monotonic() - start
        progress.detail(f"the image is ready after {ready_seconds:.1f} s")
        if client.variant() == SATURATION_SAFE:
            client.manifest = _manifest_in(server.container, image, f"{model_folder}/{FOLDER}")
        yield Started(container=server.container, client=client, ready_seconds=ready_seconds)


@contextmanager
def launched(
    engine: Engine, image: str, *, stay_as: str | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Started]:
    """Start a container of `image` without waiting for its server.

    The container is removed at the end, also on Ctrl-C or SIGTERM (see `cli.interrupt`). With `stay_as` it
    has that name, port 8000 if that is free, and keeps running after a normal end.
    """
    bind, connect_to = addresses(engine)
    wanted = ANY_PORT if stay_as is None else usual_port_if_free(bind, PORT)
    ports, settings = {PORT: (bind, wanted)}, dict(environment or {})
    with created(engine, image, ports=ports, stay_as=stay_as, environment=settings) as container:
        manifest = _manifest_in(container, image, settings.get("MODEL_FOLDER", MODEL_FOLDER))
        start = time.monotonic()
        with engine_call(f"start a container of {image}"):
            container.start()
            container.reload()
        port = int(container.attrs["NetworkSettings"]["Ports"][PORT][0]["HostPort"])
        patience = EMULATION if engine.emulates(image) else 1.0
        client = InferenceClient(connect_to, port, manifest, answer_seconds=patience * ANSWER_SECONDS)
        try:
            yield Started(container=container, client=client, ready_seconds=time.monotonic() - start)
        finally:
            client.close()


def output_of(engine: Engine, image: str, command: Sequence[str]) -> str:
    """Return the stdout of `command` in a container of `image`; raise `PackageError` if it fails."""
    with (
        created(engine, image, entrypoint=list(command), network_mode="none") as container,
        engine_call(f"run {command[0]} in {image}"),
    ):
        container.start()
        status = int(container.wait()["StatusCode"])
        text = container.logs(stdout=True, stderr=False).decode(errors="replace")
        errors = container.logs(stdout=False, stderr=True).decode(errors="replace")
    if status != 0:
        raise PackageError(f"{command[0]} ended with status {status} in a container of {image}: {errors.strip()}")
    return text


@contextmanager
def created(
    engine: Engine,
    image: str,
    *,
    entrypoint: list[str] | None = None,
    network_mode: str | None = None,
    ports: Mapping[str, tuple[str, int]] | None = None,
    environment: dict[str, str] | None = None,
    stay_as: str | None = None,
) -> Iterator[Container]:
    """Create a container without privileges, not yet started; remove it at the end, with `stay_as` only on failure."""
    name = stay_as or f"edge-deploy-{uuid.uuid4().hex[:12]}"
    if stay_as is not None:
        _remove_earlier(engine, stay_as)

    stack = ExitStack()
    volumes = stack.enter_context(volumes_for(engine, image))

    def create() -> Container:
        with engine_call(f"create a container of {image}"):
            return engine.client.containers.create(
                image,
                name=name,
                entrypoint=entrypoint,
                labels={OWNER: owner()} if stay_as is None else {STAYS: image},
                network_mode=network_mode,
                ports=ports,
                environment=environment,
                volumes=volumes,
                **RIGHTS,
            )

    # In its own thread: an interrupt ends only our waiting, so that the container is known and can be removed.
    thread = ThreadPoolExecutor(max_workers=1)
    is_kept = False
    try:
        yield thread.submit(create).result()
        is_kept = stay_as is not None
    finally:
        thread.shutdown(wait=True)
        with stack:
            if not is_kept:
                remove(engine, name)


def remove(engine: Engine, name: str) -> None:
    """Remove a container, running or not; ignore a missing one."""
    with engine_call(f"remove the container {name}"):
        try:
            engine.client.api.remove_container(name, force=True, v=True)
        except NotFound:
            pass
        except APIError as error:
            # Another process is removing it already.
            if error.status_code != 409:
                raise


def remove_orphans(engine: Engine) -> list[str]:
    """Remove containers left behind by killed builds on this machine; return their names."""
    swept = []
    for container in engine.client.containers.list(all=True, filters={"label": OWNER}, ignore_removed=True):
        if is_orphan(container.labels[OWNER]):
            swept.append(str(container.name))
            remove(engine, swept[-1])
    return swept


def owner() -> str:
    """Return an identifier of this process: its machine, process id and start time."""
    return json.dumps([socket.gethostname(), os.getpid(), _start_of(os.getpid())])


def is_orphan(label: str) -> bool:
    """Whether the process of `label` ran on this machine, and has ended."""
    try:
        host, process, start = json.loads(label)
    except (ValueError, TypeError):
        return False
    return bool(host == socket.gethostname() and _start_of(int(process)) != start)


def _start_of(process: int) -> str | None:
    """Return the start of a process, in ticks since boot, and the boot's id: process ids are reused."""
    try:
        # The name in parentheses may contain spaces; the start time is field 22, the 20th after it.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {fields[19]}"
    except OSError:
        return None


def _remove_earlier(engine: Engine, name: str) -> None:
    """Remove the container of an earlier call; raise `PackageError` for a foreign one of that name."""
    for container in engine.client.containers.list(all=True, filters={"name": f"^/{name}$"}, ignore_removed=True):
        if STAYS not in container.labels:
            raise PackageError(f"the container {name} is not from Edge Deploy. Rename or remove it, then run again.")
        remove(engine, name)


def copy_out(container: Container, image: str, path: str, folder: Path) -> None:
    """Copy a file or a folder of a container into `folder`."""
    try:
        chunks, _ = container.get_archive(path)
        archive = io.BytesIO(b"".join(chunks))
    except APIError:
        raise PackageError(f"{image} is not an image made by `deploy build`: it has no {path}.") from None
    with tarfile.open(fileobj=archive) as tar:
        tar.extractall(folder, filter="data")


def _manifest_in(container: Container, image: str, model_folder: str) -> Manifest:
    with tempfile.TemporaryDirectory() as folder:
        copy_out(container, image, f"{model_folder}/{FILE}", Path(folder))
        try:
            return read_manifest(Path(folder))
        except ManifestError as error:
            raise PackageError(f"the image {image} cannot be used: {error}") from None


def wait_until_ready(client: InferenceClient, container: Container, image: str, *, seconds: float) -> None:
    """Raise `NeverReady` if the server reports it, `PackageError` if it ends or takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    reason = "it does not respond"
    while time.monotonic() < deadline:
        state = client.readiness()
        if state.is_ready:
            return
        reason = state.reason or reason
        with engine_call(f"inspect a container of {image}"):
            container.reload()
        if state.has_failed and container.status == "running":
            raise NeverReady(image, reason, container)
        if state.has_failed or container.status != "running":
            break
        time.sleep(POLL_SECONDS)
    else:
        reason += f" (after {seconds:.0f} s)"
    raise PackageError(f"a container of {image} does not become ready: {reason}.{_end_of_log(container)}")


def _end_of_log(container: Container) -> str:
    state: Mapping[str, object] = container.attrs["State"]
    ended = "" if state["Running"] else f" It ended with status {state['ExitCode']}."
    try:
        lines = container.logs(tail=LOG_LINES).decode(errors="replace").strip()
    except APIError:
        lines = ""
    return f"{ended} The last lines of its log:\n{lines}" if lines else ended
