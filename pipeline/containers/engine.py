"""The Docker engine, through its SDK; its failures become ours."""

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
# A step of a build may be silent for long on a slow machine.
ANSWER_SECONDS = 900
LOG_LINES = 20
FIXED_TIME = 315532800
"""1980-01-01: the time of every file we put into an image; see docker/install.py."""


class Engine:
    """A Docker engine that answers."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.client = client

    @property
    def platform(self) -> str:
        """What it runs natively, as `linux/amd64`."""
        version = self.client.version()
        return f"{version['Os']}/{version['Arch']}"

    def platform_of(self, image: str) -> str | None:
        """The platform of an image that is here, or None."""
        found = self._find_image(image)
        return None if found is None else f"{found.attrs['Os']}/{found.attrs['Architecture']}"

    def emulates(self, image: str) -> bool:
        """Whether the engine has an image of another platform than it runs natively."""
        return self.platform_of(image) not in (None, self.platform)

    def layers_of(self, image: str) -> list[str] | None:
        """The content of an image that is here, layer by layer, or None."""
        found = self._find_image(image)
        return None if found is None else list(found.attrs["RootFS"]["Layers"])

    def labels_of(self, image: str) -> dict[str, str] | None:
        """The labels of an image that is here, or None."""
        found = self._find_image(image)
        return None if found is None else dict(found.labels)

    def pull(self, tag: str, platform: str, progress: Progress) -> None:
        """Fetch an image from its registry; raises `PackageError` with the registry's words."""
        progress.line(f"pulling the base image {tag}")
        repository, version = parse_repository_tag(tag)
        with speaking(f"pull {tag}"):
            try:
                self.client.images.pull(repository, tag=version or "latest", platform=platform)
            except APIError as error:
                raise PackageError(str(error.explanation or error)) from None

    def build(
        self, context: Path, *, labels: dict[str, str], platform: str, progress: Progress, stage_tag: str | None = None
    ) -> str:
        """Build the context folder without network; returns the image's id. The image has no tag yet.

        The engine keeps the Dockerfile's first stage, so that the next build need not run it again: `stage_tag` names
        it, where there are two stages.
        """
        last = ""
        stages: list[str] = []
        lines: list[str] = []
        try:
            with _pack_context(context) as archive, speaking("build the image"):
                stream = self.client.api.build(
                    fileobj=archive,
                    custom_context=True,
                    network_mode="none",
                    rm=True,
                    forcerm=True,
                    decode=True,
                    labels=labels,
                    # An engine that knows one platform alone refuses to be told of it.
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
                        # Every stage of the Dockerfile has its own; the last one is the image.
                        stages.append(str(auxiliary["ID"]))
            if not stages:
                raise PackageError(build_failure("the engine named no image", lines, platform))
            if stage_tag is not None and len(stages) > 1:
                self.tag(stages[0], stage_tag)
            return stages[-1]
        except BaseException:
            # What was built so far is of no use to anybody; steps that other images share stay.
            if last:
                self.remove(last)
            raise

    def tag(self, image: str, tag: str) -> None:
        """Give an image its tag; the image that had it before is removed if nothing else needs it."""
        with speaking(f"tag the image {tag}"):
            before = self.id_of(tag)
            repository, _, version = tag.rpartition(":")
            self.client.images.get(image).tag(repository, version)
        if before is not None and before != image:
            self.remove(before)

    def id_of(self, tag: str) -> str | None:
        """The id of an image that is here, or None."""
        found = self._find_image(tag)
        return None if found is None else str(found.id)

    def bytes_of(self, image: str) -> int:
        with speaking(f"look at the image {image}"):
            return int(self.client.images.get(image).attrs["Size"])

    def remove(self, image: str) -> None:
        """Remove an image that has no tag; one that is gone, tagged or in use is left as it is."""
        # An engine that has stopped answering is reported by whoever asked it for something.
        with suppress(APIError, RequestException):
            if not self.client.images.get(image).tags:
                self.client.images.remove(image)

    def untag(self, tag: str) -> None:
        """Take the tag from its image; without another one the image goes with it."""
        with speaking(f"remove the image {tag}"):
            self.client.images.remove(tag)

    def close(self) -> None:
        self.client.close()

    def _find_image(self, image: str) -> Image | None:
        """None where no image is called that, or none can be: `Foo` is no name of an image."""
        with speaking(f"look for the image {image}"):
            try:
                return self.client.images.get(image)
            except APIError as error:
                if error.status_code in (400, 404):
                    return None
                raise


def connect() -> Engine:
    """The engine that DOCKER_HOST names, or the local one; raises `EngineMissing` with the reason and the cure."""
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
    """One line: where no engine answers, why, and what to do."""
    host = os.environ.get("DOCKER_HOST")
    if host:
        return f"no Docker engine answers at DOCKER_HOST={host}: start it there, or correct DOCKER_HOST."
    if "Permission denied" in error or (DEFAULT_SOCKET.exists() and not os.access(DEFAULT_SOCKET, os.W_OK)):
        return (
            f"the Docker engine's socket {DEFAULT_SOCKET} is not open to this user: add yourself to the group docker "
            "(sudo usermod -aG docker $USER, then log in again)."
        )
    if not DEFAULT_SOCKET.exists():
        return (
            f"no Docker engine answers: there is no {DEFAULT_SOCKET}. Install and start one (on Debian and Ubuntu: "
            "sudo apt-get install docker.io), or name another with DOCKER_HOST."
        )
    return f"no Docker engine answers at {DEFAULT_SOCKET}: start it (sudo systemctl start docker), or set DOCKER_HOST."


@contextmanager
def speaking(doing: str) -> Iterator[None]:
    """Turn the SDK's errors into ours; `doing` completes "the Docker engine could not …"."""
    try:
        yield
    except APIError as error:
        raise PackageError(f"the Docker engine could not {doing}: {error.explanation or error}.") from None
    except (RequestException, StreamBroken) as error:
        raise EngineMissing(
            f"the Docker engine stopped answering when asked to {doing} ({type(error).__name__}). "
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
    """The context as a tar file, the same whenever it is made from the same files."""
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
