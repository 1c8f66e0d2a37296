"""The Docker engine, through its SDK, with our error classes."""

import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

import docker
from docker.errors import APIError, DockerException
from docker.models.images import Image
from docker.utils import parse_repository_tag
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError as StreamBroken

from pipeline.errors import EngineMissing, PackageError
from pipeline.progress import Progress

DEFAULT_SOCKET = Path("/var/run/docker.sock")
CONNECT_SECONDS = 10
# A build step may print nothing for long on a slow machine.
ANSWER_SECONDS = 900
LOG_LINES = 20
FIXED_TIME = 315532800
"""1980-01-01: the modification time of every file in our images; see docker/install.py."""


class Engine:
    """A running Docker engine."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.client = client

    @property
    def platform(self) -> str:
        """Return its native platform, such as `linux/amd64`."""
        version = self.client.version()
        return f"{version['Os']}/{version['Arch']}"

    def platform_of(self, image: str) -> str | None:
        """Return the platform of a local image, or None."""
        found = self._find_image(image)
        return None if found is None else f"{found.attrs['Os']}/{found.attrs['Architecture']}"

    def emulates(self, image: str) -> bool:
        """Whether a local image is of another platform than the engine's."""
        return self.platform_of(image) not in (None, self.platform)

    def layers_of(self, image: str) -> list[str] | None:
        """Return the layers of a local image, or None."""
        found = self._find_image(image)
        return None if found is None else list(found.attrs["RootFS"]["Layers"])

    def labels_of(self, image: str) -> dict[str, str] | None:
        """Return the labels of a local image, or None."""
        found = self._find_image(image)
        return None if found is None else dict(found.labels)

    def pull(self, tag: str, platform: str, progress: Progress) -> None:
        """Pull an image from its registry; raise `PackageError` with the registry's message."""
        progress.line(f"pulling the base image {tag}")
        repository, version = parse_repository_tag(tag)
        with engine_call(f"pull {tag}"):
            try:
                self.client.images.pull(repository, tag=version or "latest", platform=platform)
            except APIError as error:
                raise PackageError(str(error.explanation or error)) from None

    def build(
        self, context: Path, *, labels: dict[str, str], platform: str, progress: Progress, stage_tag: str | None = None
    ) -> str:
        """Build the context folder without network; return the image's id. The image has no tag yet.

        The engine keeps the Dockerfile's first stage, so that the next build need not repeat it: `stage_tag` is its
        tag, if there are two stages.
        """
        last = ""
        stages: list[str] = []
        lines: list[str] = []
        try:
            with _pack_context(context) as archive, engine_call("build the image"):
                stream = self.client.api.build(
                    fileobj=archive,
                    custom_context=True,
                    network_mode="none",
                    rm=True,
                    forcerm=True,
                    decode=True,
                    labels=labels,
                    # An engine with a single platform refuses the option.
                    platform=None if platform == self.platform else platform,
                )
                for event in cast(Iterator[dict[str, object]], stream):
                    if "error" in event:
                        raise PackageError(build_failure(str(event["error"]), lines, platform))
                    text = str(event.get("stream", "")).rstrip()
                    if text:
                        lines.append(text)
                        progress.detail(text)
                    if text.strip().startswith("---> ") and len(text.split()) == 2:
                        last = text.split()[1]
                    auxiliary = event.get("aux")
                    if isinstance(auxiliary, dict) and "ID" in auxiliary:
                        # Every stage of the Dockerfile has its own id; the last one is the image.
                        stages.append(str(auxiliary["ID"]))
            if not stages:
                raise PackageError(build_failure("the engine returned no image id", lines, platform))
            if stage_tag is not None and len(stages) > 1:
                self.tag(stages[0], stage_tag)
            return stages[-1]
        except BaseException:
            # Remove what was built so far; steps shared with other images stay.
            if last:
                self.remove(last)
            raise

    def tag(self, image: str, tag: str) -> None:
        """Tag an image; the image that had the tag before is removed if nothing else needs it."""
        with engine_call(f"tag the image {tag}"):
            before = self.id_of(tag)
            repository, _, version = tag.rpartition(":")
            self.client.images.get(image).tag(repository, version)
        if before is not None and before != image:
            self.remove(before)

    def id_of(self, tag: str) -> str | None:
        """Return the id of a local image, or None."""
        found = self._find_image(tag)
        return None if found is None else str(found.id)

    def bytes_of(self, image: str) -> int:
        with engine_call(f"inspect the image {image}"):
            return int(self.client.images.get(image).attrs["Size"])

    def remove(self, image: str) -> None:
        """Remove an image without tags; ignore a missing one, a tagged one and one in use."""
        # If the engine has stopped responding, the caller reports that.
        with suppress(APIError, RequestException):
            if not self.client.images.get(image).tags:
                self.client.images.remove(image)

    def untag(self, tag: str) -> None:
        """Remove the tag; an image without another tag is deleted."""
        with engine_call(f"remove the image {tag}"):
            self.client.images.remove(tag)

    def close(self) -> None:
        self.client.close()

    def _find_image(self, image: str) -> Image | None:
        """Return None if there is no such image, or the name is not valid for one, such as `Foo`."""
        with engine_call(f"find the image {image}"):
            try:
                return self.client.images.get(image)
            except APIError as error:
                if error.status_code in (400, 404):
                    return None
                raise


def connect() -> Engine:
    """Return the engine at DOCKER_HOST, or the local one; raise `EngineMissing` with the reason and the cure."""
    try:
        client = docker.from_env(timeout=CONNECT_SECONDS)
        try:
            client.ping()
        except BaseException:
            client.close()
            raise
    except (DockerException, RequestException, ValueError) as error:
        raise EngineMissing(why_missing(str(error))) from None
    client.api.timeout = ANSWER_SECONDS
    return Engine(client)


def why_missing(error: str) -> str:
    """Return one line: where no engine responds, why, and what to do."""
    host = os.environ.get("DOCKER_HOST")
    if host:
        return f"no Docker engine answers at DOCKER_HOST={host}: start it there, or correct DOCKER_HOST."
    if "Permission denied" in error or (DEFAULT_SOCKET.exists() and not os.access(DEFAULT_SOCKET, os.W_OK)):
        return (
            f"this user may not open the Docker engine's socket {DEFAULT_SOCKET}: add yourself to the group docker "
            "(sudo usermod -aG docker $USER, then log in again)."
        )
    if not DEFAULT_SOCKET.exists():
        return (
            f"no Docker engine answers: {DEFAULT_SOCKET} does not exist. Install and start one (on Debian and Ubuntu: "
            "sudo apt-get install docker.io), or give another with DOCKER_HOST."
        )
    return f"no Docker engine answers at {DEFAULT_SOCKET}: start it (sudo systemctl start docker), or set DOCKER_HOST."


@contextmanager
def engine_call(doing: str) -> Iterator[None]:
    """Convert the SDK's errors to ours; `doing` completes "the Docker engine could not …"."""
    try:
        yield
    except APIError as error:
        raise PackageError(f"the Docker engine could not {doing}: {error.explanation or error}.") from None
    except (RequestException, StreamBroken) as error:
        raise EngineMissing(
            f"the Docker engine stopped responding when asked to {doing} ({type(error).__name__}). "
            "Look at its log (journalctl -u docker) and run again."
        ) from None


def build_failure(error: str, lines: list[str], platform: str) -> str:
    tail = "\n".join(lines[-LOG_LINES:])
    if "exec format error" in f"{error}{tail}":
        return (
            f"the image could not be built: this machine cannot run programs of {platform}. Build on a machine that "
            "can, or install an emulator: sudo apt-get install qemu-user-static binfmt-support."
        )
    return f"the image could not be built: {error.strip()}. The last lines of the build:\n{tail}"


@contextmanager
def _pack_context(context: Path) -> Iterator[IO[bytes]]:
    """Return the context as a tar file, byte-identical for the same files."""
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for path in sorted(context.rglob("*")):
                tar.add(path, arcname=path.relative_to(context).as_posix(), recursive=False, filter=_as_root)
        archive.seek(0)
        yield archive


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.isdir() else 0o644
    entry.mtime = FIXED_TIME
    return entry
