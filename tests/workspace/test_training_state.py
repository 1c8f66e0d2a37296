"""The file a training is kept in: what is read back, what is set aside and said, and what a full disk does."""

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_trained import Recorded

from pipeline.errors import WorkspaceError
from pipeline.workspace.training_state import Continuation, Kept, progress_of

STATE = bytes(range(256)) * 40


def at(folder: Path, fingerprint: str = "a") -> Continuation:
    return Continuation(file=folder / "training" / "state", fingerprint=fingerprint)


def kept(folder: Path, *, epochs: int = 3, state: bytes = STATE, progress: Recorded | None = None) -> Continuation:
    continuation = at(folder)
    progress = progress or Recorded()
    continuation.keep(state, epochs=epochs, seconds=1.5, name="recovery", progress=progress)
    return continuation


def test_what_was_kept_last_is_read_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    kept(tmp_path, epochs=2, state=b"older and longer" * 5000)
    progress = Recorded()
    assert kept(tmp_path).read("recovery", progress) == Kept(epochs=3, seconds=1.5, state=STATE)
    assert progress.lines == []
    assert [path.name for path in (tmp_path / "training").iterdir()] == ["state"]
    assert progress_of(tmp_path / "training") == (3, 1.5)


def test_nothing_kept_is_nothing_to_say(tmp_path: Path) -> None:
    progress = Recorded()
    assert at(tmp_path).read("recovery", progress) is None
    assert progress.lines == []
    assert progress_of(tmp_path) == (0, 0.0)
    at(tmp_path).remove()


def test_another_training_does_not_go_on_from_it(tmp_path: Path) -> None:
    kept(tmp_path)
    progress = Recorded()
    assert at(tmp_path, "b").read("recovery", progress) is None
    (line,) = progress.lines
    assert line.startswith(
        f"recovery: starts from the beginning: the state {tmp_path}/training/state is from another training"
    )
    assert [path.name for path in (tmp_path / "training").iterdir()] == ["state.set-aside"]
    assert kept(tmp_path).bound_to({"epochs": 5}).read("recovery", progress) is None
    assert at(tmp_path).bound_to({"epochs": 5}) == at(tmp_path).bound_to({"epochs": 5}) != at(tmp_path)


@pytest.mark.parametrize("where", [0, 30, 60, 90, 130, 200, 400, 5000, -1])
@pytest.mark.parametrize("how", ["flipped", "cut", "longer"])
def test_damage_anywhere_is_found_said_and_set_aside(where: int, how: str, tmp_path: Path) -> None:
    continuation = kept(tmp_path)
    sound = continuation.file.read_bytes()
    damaged = bytearray(sound)
    if how == "flipped":
        damaged[where] ^= 1
    elif how == "cut":
        del damaged[where:]
    else:
        damaged[where:where] = b"7"
    continuation.file.write_bytes(damaged)
    progress = Recorded()
    assert continuation.read("recovery", progress) is None
    (line,) = progress.lines
    assert line.startswith(f"recovery: starts from the beginning: the state {continuation.file} is ")
    assert not continuation.file.exists()
    assert continuation.file.with_name("state.set-aside").read_bytes() == damaged
    continuation.keep(STATE, epochs=1, seconds=1, name="recovery", progress=progress)
    assert continuation.read("recovery", progress) is not None


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 4000, b'{"schema": 2}', b'{"schema": 1, "epochs": null}']
)
def test_lines_that_are_no_header_of_ours(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(line + b"\nstate")
    assert progress_of(tmp_path) == (0, 0.0)
    progress = Recorded()
    assert Continuation(file=tmp_path / "state", fingerprint="a").read("recovery", progress) is None
    assert "is damaged" in progress.lines[0]


def test_how_far_it_is_is_part_of_the_checksum(tmp_path: Path) -> None:
    continuation = kept(tmp_path)
    line, state = continuation.file.read_bytes().split(b"\n", 1)
    changed = json.dumps({**json.loads(line), "epochs": 2}).encode()
    continuation.file.write_bytes(changed + b"\n" + state)
    assert continuation.read("recovery", Recorded()) is None


def test_a_folder_in_its_place_is_moved_away(tmp_path: Path) -> None:
    at(tmp_path).file.mkdir(parents=True)
    progress = Recorded()
    assert at(tmp_path).read("recovery", progress) is None
    assert "cannot be read (Is a directory)" in progress.lines[0]


def test_a_state_that_cannot_be_moved_away_is_an_error(tmp_path: Path) -> None:
    kept(tmp_path)
    (tmp_path / "training" / "state.set-aside").mkdir()
    with pytest.raises(
        WorkspaceError, match=r"recovery: .*state is from another training .*cannot be renamed.*Remove it"
    ):
        at(tmp_path, "b").read("recovery", Recorded())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A limit of the system's: a write that goes beyond it fails half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_write_that_fails_half_way_is_said_and_leaves_the_older_state(tmp_path: Path) -> None:
    kept(tmp_path, epochs=1)
    progress = Recorded()
    with files_of_at_most(5000):
        kept(tmp_path, epochs=2, progress=progress)
    (line,) = progress.lines
    assert line.startswith("warning: recovery: the state after epoch 2 cannot be written to ")
    assert "(File too large)" in line
    assert [path.name for path in (tmp_path / "training").iterdir()] == ["state"]
    found = at(tmp_path).read("recovery", progress)
    assert found is not None
    assert found.epochs == 1


def test_a_place_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "training").write_text("a file")
    progress = Recorded()
    kept(tmp_path, progress=progress)
    (line,) = progress.lines
    assert "cannot be written" in line


def test_what_a_killed_process_wrote_half_is_replaced_and_removed(tmp_path: Path) -> None:
    """A child ends in the middle of its write, as if killed: nothing of Python is run any more."""
    kept(tmp_path, epochs=1)
    part = tmp_path / "training" / ".state.part"
    child = os.fork()
    if child == 0:
        with part.open("wb", buffering=0) as file:
            file.write(STATE[:100])
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert part.exists()
    continuation = at(tmp_path)
    found = continuation.read("recovery", Recorded())
    assert found is not None
    assert found.epochs == 1
    continuation.remove()
    assert list((tmp_path / "training").iterdir()) == []
