"""The folder that engines are kept in: whole or not at all, one writer at a time, and every failure with its cure."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from device_server import ROOT

from targets.device.errors import CacheError
from targets.device.tensorrt import cache as cache_module
from targets.device.tensorrt.cache import Cache, cache_errors


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    made = Cache(tmp_path / "cache")
    made.prepare(0)
    return made


def never() -> None:
    raise AssertionError("nobody else has the lock")


def test_a_folder_appears_as_a_whole(cache: Cache) -> None:
    final = cache.folder / "key"
    with cache.beside(final) as made:
        (made / "model.engine").write_bytes(b"engine")
        assert not final.exists()
    assert (final / "model.engine").read_bytes() == b"engine"
    # Whoever collects it need not be its owner.
    assert final.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in cache.folder.iterdir()] == ["key"]


def test_the_one_of_before_stays_until_the_next_is_whole(cache: Cache) -> None:
    final = cache.folder / "key"
    for content in (b"first", b"second"):
        with cache.beside(final) as made:
            (made / "model.engine").write_bytes(content)
    with pytest.raises(IsADirectoryError), cache.beside(final) as made:
        (made / "model.engine").write_bytes(made.read_bytes())
    assert (final / "model.engine").read_bytes() == b"second"
    assert [path.name for path in cache.folder.iterdir()] == ["key"]


def test_what_was_left_by_a_killed_build_is_swept(cache: Cache) -> None:
    left = cache.folder / f"{cache_module.TEMPORARY}abc"
    left.mkdir()
    (left / "model.engine").write_bytes(b"half")
    (cache.folder / "key").mkdir()
    cache.sweep()
    assert [path.name for path in cache.folder.iterdir()] == ["key"]


def test_another_process_waits_until_the_lock_is_free_also_where_its_owner_is_killed(cache: Cache) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from targets.device.tensorrt.cache import Cache\n"
        f"with Cache(Path({str(cache.folder)!r})).locked(waiting=lambda: None):\n"
        "    print('mine', flush=True)\n"
        "    time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"mine\n"
    waited = []

    def waiting() -> None:
        waited.append(1)
        if len(waited) == 2:
            owner.kill()

    with cache.locked(waiting=waiting):
        assert len(waited) >= 2
    owner.communicate(timeout=60)
    with cache.locked(waiting=never):
        pass


def test_errors_of_what_is_done_under_the_lock_are_its_own(cache: Cache) -> None:
    with pytest.raises(FileNotFoundError), cache.locked(waiting=never):
        (cache.folder / "nothing").read_bytes()


def test_too_little_room_is_found_before_a_build(cache: Cache) -> None:
    free = shutil.disk_usage(cache.folder).free
    with pytest.raises(CacheError, match=r"has \d+ MiB free, and an engine of this model may need \d+\. Free some"):
        cache.prepare(free)


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "The disk is full: free some space, or set ENGINE_CACHE to a larger volume"),
        (errno.EDQUOT, "The disk is full"),
        (
            errno.EACCES,
            r"User \d+ cannot write to it: change the owner \(chown -R \d+ FOLDER\), or mount another volume",
        ),
        (errno.EROFS, r"Mount a volume there \(docker run -v engines:/var/cache/edge-deploy\)"),
        (errno.EIO, "Mount a writable volume"),
    ],
)
def test_each_failure_names_the_folder_the_reason_and_the_cure(tmp_path: Path, number: int, cure: str) -> None:
    message = rf"^the engine cache {tmp_path} cannot be used: \[Errno {number}\] .*{cure}"
    with pytest.raises(CacheError, match=message), cache_errors(tmp_path):
        raise OSError(number, "no")


def test_a_root_that_is_read_only_is_told_what_to_mount() -> None:
    """A real file system that nobody may write to."""
    with pytest.raises(CacheError, match=r"the engine cache /proc/engines cannot be used: .*volume"):
        Cache(Path("/proc/engines")).prepare(0)
