"""Content-addressed files on a device: a file that it has received is never sent again.

In our folder on the device: `files/<sha256>`, `incoming/<job>/<sha256>` during transfer, `indexes/<job>`, and the
job's folder `jobs/<job>/`, whose `sent/` consists of links to the files.
"""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from pipeline.containers.engine import FIXED_TIME
from pipeline.devices.ssh import Connection
from pipeline.errors import DeviceError
from pipeline.workspace.hashing import sha256_of_file

MAX_PROOF_BYTES, MAX_PROOF_FILES = 2 << 30, 64
"""For a device's proof; the largest file is its engine."""
KEPT_INDEXES = 4
"""Number of deliveries whose files are kept."""
# Complete files of an interrupted transfer are kept. Sizes are checked, as a crash may have left a file at 0.
LACKING = """
[ -d "$WORK" ] || (umask 077; mkdir -p "$WORK")
mkdir -p "$WORK/files" "$WORK/indexes" "$WORK/incoming/$1" "$WORK/jobs/$1"
# Where the container writes, any user of the device could.
chmod 700 "$WORK/jobs/$1"
find "$WORK/incoming" -mindepth 1 -maxdepth 1 -mmin +1440 -exec rm -rf {} +
cat >"$WORK/indexes/$1"
for file in "$WORK/incoming/$1"/*; do
  [ -f "$file" ] || continue
  name=${file##*/}
  case $(sha256sum <"$file") in
    "$name "*) chmod 644 "$file"; mv -f "$file" "$WORK/files/$name";;
    *) rm -f "$file";;
  esac
done
cut -d' ' -f1,2 "$WORK/indexes/$1" | sort -u | while read -r sha size; do
  [ -f "$WORK/files/$sha" ] && [ "$(wc -c <"$WORK/files/$sha")" -eq "$size" ] || echo "$sha"
done
"""
RECEIVE = """
cd "$WORK/incoming/$1"
tar -xof -
for name in *; do
  [ -f "$name" ] || continue
  case $(sha256sum <"$name") in "$name "*) ;; *) echo "$name has arrived damaged" >&2; exit 1;; esac
  chmod 644 "$name"
  mv -f "$name" "$WORK/files/$name"
done
sync
"""
# Times as in every context (`package/build_context.py`), so that layers are identical wherever they are built.
ASSEMBLE = """
[ ! -d "$WORK/jobs/$1/sent" ] || exit 0
rm -rf "$WORK/incoming/$1" "$WORK/jobs/$1/new"
mkdir "$WORK/jobs/$1/new"
while read -r sha size path; do
  case $path in */*) mkdir -p "$WORK/jobs/$1/new/${path%/*}";; esac
  ln "$WORK/files/$sha" "$WORK/jobs/$1/new/$path"
done <"$WORK/indexes/$1"
find "$WORK/jobs/$1/new" -type d -exec chmod 755 {} + -exec env TZ=UTC0 touch -t 198001010000 {} +
mv "$WORK/jobs/$1/new" "$WORK/jobs/$1/sent"
"""
FORGET = """
cd "$WORK/indexes"
touch "$1"
ls -t | tail -n +$2 | while read -r old; do rm -f "$old"; done
cut -d' ' -f1 ./* | sort -u >"$WORK/wanted"
ls "$WORK/files" | sort | comm -23 - "$WORK/wanted" | while read -r sha; do rm -f "$WORK/files/$sha"; done
rm -f "$WORK/wanted"
"""


def index_of(files: Mapping[str, Path]) -> dict[str, tuple[str, int, Path]]:
    """Return digest, size and local path of each file, by its path in `sent/`."""
    return {name: (sha256_of_file(path), path.stat().st_size, path) for name, path in sorted(files.items())}


def index_text(index: Mapping[str, tuple[str, int, Path]]) -> str:
    """Return a line for each file, as stored on the device; equal contexts give equal texts."""
    return "".join(f"{sha} {size} {name}\n" for name, (sha, size, _path) in index.items())


def send(connection: Connection, job: str, index: Mapping[str, tuple[str, int, Path]]) -> tuple[int, int]:
    """Send missing files and create `jobs/<job>/sent`; return the number of files and bytes sent."""
    listing = index_text(index).encode()
    answer = connection.run("looking for missing files", LACKING, job, feed=lambda pipe: write(pipe, listing))
    places = {sha: (size, path) for sha, size, path in index.values()}
    wanted = answer.stdout.split()
    stray = [sha for sha in wanted if sha not in places]
    if stray:
        raise DeviceError(f"the device requests a file that is not part of the work: {stray[0][:64]}. Run again.")
    total = sum(places[sha][0] for sha in wanted)
    if wanted:
        connection.run(
            f"sending {amount_text(len(wanted), total)}",
            RECEIVE,
            job,
            feed=lambda pipe: _pack(pipe, {sha: places[sha][1] for sha in wanted}),
        )
    connection.run("arranging the sent files", ASSEMBLE, job)
    return len(wanted), total


def amount_text(files: int, size: int) -> str:
    """`3 files, 1.2 MB`."""
    unit = f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"
    return f"{files} file{'' if files == 1 else 's'}, {unit}"


def forget_unused(connection: Connection, job: str) -> None:
    """Remove the files that only older deliveries used."""
    connection.run("removing unused files", FORGET, job, str(KEPT_INDEXES + 1))


def fetch(connection: Connection, job: str, folder: Path) -> None:
    """Copy `jobs/<job>/out` into `folder`."""

    def unpack(pipe: IO[bytes]) -> None:
        left = MAX_PROOF_BYTES
        with tarfile.open(fileobj=pipe, mode="r|") as archive:
            for number, entry in enumerate(archive):
                left -= entry.size
                if left < 0 or number >= MAX_PROOF_FILES:
                    raise DeviceError(
                        f"the device's proof has more than {MAX_PROOF_FILES} files or {MAX_PROOF_BYTES >> 30} "
                        "GiB; nothing of it was kept."
                    )
                archive.extract(entry, folder, filter="data")

    try:
        connection.run("fetching the proof", 'tar -C "$WORK/jobs/$1/out" -cf - .', job, into=unpack)
    except tarfile.TarError as error:
        raise DeviceError(f"the proof sent by the device cannot be read ({error}). Run again.") from None


def write(pipe: IO[bytes], contents: bytes) -> None:
    """Write a script's input."""
    pipe.write(contents)


def _pack(pipe: IO[bytes], files: Mapping[str, Path]) -> None:
    """Write small files first: an interrupted transfer then completes more of them."""
    with tarfile.open(fileobj=pipe, mode="w|") as archive:
        for sha, path in sorted(files.items(), key=lambda item: item[1].stat().st_size):
            entry = tarfile.TarInfo(sha)
            entry.size, entry.mode, entry.mtime = path.stat().st_size, 0o644, FIXED_TIME
            with path.open("rb") as contents:
                archive.addfile(entry, contents)
