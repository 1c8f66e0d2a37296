"""Use the device's Docker: build from the sent files, run the image's proof, tag it once it is proven."""

import re
from collections.abc import Callable, Sequence

from pipeline.containers.container import RIGHTS
from pipeline.devices.inventory import Device
from pipeline.devices.ssh import Connection
from pipeline.devices.store import write
from pipeline.errors import DeviceError
from pipeline.package.service_files import Service
from pipeline.untrusted import parse_json
from targets.target import Target

PULL = '$DOCKER image inspect "$1" >/dev/null 2>&1 || $DOCKER pull --platform "$2" "$1" >&2 </dev/null'
# Remove an untagged image; steps shared with others and images in use by a container stay.
REMOVE = """
remove() {
  [ -n "$1" ] && [ "$($DOCKER image inspect --format '{{len .RepoTags}}' "$1" 2>/dev/null)" = 0 ] || return 0
  $DOCKER image rm "$1" >/dev/null 2>&1 || true
}
layers() { $DOCKER image inspect --format '{{json .RootFS.Layers}}' "$1"; }
"""
BUILD = """
cd "$WORK/jobs/$1"
if [ -s image ] && $DOCKER image inspect "$(cat image)" >/dev/null 2>&1; then cat image; exit 0; fi
rm -f image.new
$DOCKER build --network none --iidfile image.new --file - sent/context >&2
mv image.new image
cat image
"""
# An existing container is from a lost connection; it kept running.
PROVE = """
job=$1; name=$2; shift 2
state=$($DOCKER container inspect --format '{{.State.Status}}' "$name" 2>/dev/null || true)
case $state in running|exited) ;; *)
  [ -z "$state" ] || $DOCKER rm --force "$name" >/dev/null
  rm -rf "$WORK/jobs/$job/out"
  mkdir "$WORK/jobs/$job/out"
  chmod 777 "$WORK/jobs/$job/out"
  $DOCKER run --detach --name "$name" "$@" >/dev/null </dev/null;; esac
$DOCKER logs --follow "$name" >/dev/null </dev/null || true
$DOCKER wait "$name"
"""
# Built again from the cache, only for the labels, which describe the proof made here.
TAG = (
    REMOVE
    + """
job=$1; tag=$2
cd "$WORK/jobs/$job"
proven=$(cat image)
before=$($DOCKER image inspect --format '{{.Id}}' "$tag" 2>/dev/null || true)
rm -f labelled
$DOCKER build --network none --iidfile labelled --file - sent/context >&2
if [ "$(layers "$(cat labelled)")" != "$(layers "$proven")" ]; then
  remove "$(cat labelled)"
  echo "the image changed while it was labelled; was Docker's build cache emptied meanwhile?" >&2; exit 1
fi
$DOCKER tag "$(cat labelled)" "$tag"
[ "$before" = "$(cat labelled)" ] || remove "$before"
remove "$proven"
cat labelled
"""
)
CLEAN = (
    REMOVE
    + """
$DOCKER rm --force "$2" >/dev/null 2>&1 || true
if [ -s "$WORK/jobs/$1/image" ]; then remove "$(cat "$WORK/jobs/$1/image")"; fi
rm -rf "$WORK/jobs/$1" "$WORK/incoming/$1"
"""
)
HAS = '$DOCKER image inspect --format "{{.Id}}" "$1" 2>/dev/null || true'


def fetch_base(connection: Connection, device: Device, base: str, platform: str) -> None:
    """Pull the base image on the device; raise `DeviceError` with another way if the device cannot pull it."""
    try:
        connection.run(f"fetching the base image {base}", PULL, base, platform)
    except DeviceError as error:
        raise DeviceError(
            f"{error}\nThe device cannot pull the base image {base}. From a machine that has it: "
            f"docker save {base} | ssh {device.login} {' '.join(device.docker)} load"
        ) from None


def build(connection: Connection, job: str, dockerfile: str, on_line: Callable[[str], None]) -> str:
    """Return the id of the image, which has no tag yet."""
    recipe = dockerfile.encode()
    return connection.run(
        "building the image", BUILD, job, feed=lambda pipe: write(pipe, recipe), on_line=on_line
    ).stdout.strip()


def prove(
    connection: Connection, job: str, name: str, words: Sequence[str], on_line: Callable[[str], None]
) -> tuple[int, str]:
    """Run the image's own proof, or attach to a running one; return its exit status and its output."""
    answer = connection.run("proving the image", PROVE, job, name, *words, on_line=on_line)
    status = answer.stdout.strip()
    if not re.fullmatch(r"[0-9]{1,3}", status):
        raise DeviceError(f"the device's Docker reports no exit status of the proof, but {status[:200]!r}. Run again.")
    return int(status), answer.stderr


def proof_words(image: str, tag: str, target: Target, *, folder: str, measure: int) -> list[str]:
    """Return the arguments of `docker run`: no network, no privileges, with a GPU also the served image's volume.

    `folder` is the job's on the device, `tag` the one that the image will get.
    """
    return [
        *_restrictions(),
        *("--network", "none"),
        *_gpu(tag, target),
        *("--env", f"MEASURE_SECONDS={measure}"),
        *("--volume", f"{folder}/out:/out"),
        *("--volume", f"{folder}/sent/shard.zip:/shard.zip:ro"),
        image,
        *("prove", "/out", "/shard.zip"),
    ]


def tag(connection: Connection, job: str, name: str, dockerfile: str, on_line: Callable[[str], None]) -> str:
    """Return the id of the image now tagged `name`; the earlier image is removed if nothing else needs it."""
    recipe = dockerfile.encode()
    return connection.run(
        "tagging the image", TAG, job, name, feed=lambda pipe: write(pipe, recipe), on_line=on_line
    ).stdout.strip()


def clean(connection: Connection, job: str, name: str) -> None:
    """Remove the job's folder, its container and, if untagged, its image."""
    connection.run("cleaning up", CLEAN, job, name)


def id_of(connection: Connection, name: str) -> str | None:
    """Return the id of the image with this tag on the device."""
    return connection.run("looking for the image", HAS, name).stdout.strip() or None


def last_message_in(said: str) -> str:
    """Return the last message in a container's log, which has lines of JSON."""
    for line in reversed(said.strip().splitlines()):
        spoken = message_in(line)
        if spoken:
            return spoken
    return "it printed nothing"


def message_in(line: str) -> str:
    """Return the message in a line of the image's log, or the line itself if it has another format."""
    try:
        raw = parse_json(line)
    except ValueError:
        return line.strip()
    return str(raw.get("reason") or raw.get("message") or "") if isinstance(raw, dict) else ""


def _restrictions() -> Sequence[str]:
    """Return the restrictions of all our containers, as options."""
    return (
        *("--read-only",),
        *(word for name in RIGHTS["cap_drop"] for word in ("--cap-drop", name)),
        *(word for name in RIGHTS["security_opt"] for word in ("--security-opt", name)),
        *(word for path, options in RIGHTS["tmpfs"].items() for word in ("--tmpfs", f"{path}:{options}")),
        *("--pids-limit", str(RIGHTS["pids_limit"])),
    )


def _gpu(tag: str, target: Target) -> Sequence[str]:
    if target.gpu is None:
        return ()
    which = ("--runtime", "nvidia") if target.gpu.is_jetson else ("--gpus", "all")
    return (*which, *(word for each in Service(image=tag, with_gpu=True).volumes for word in ("--volume", each)))
