"""Devices that write without end or answer rubbish: an error about that one, in bounded memory, and others go on."""

import io
import os
import random
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from local_device import connected, local
from preflight_answers import ORIN_JP62, PC, answer

from pipeline.devices import checkup, store
from pipeline.devices.failures import parsing_answer
from pipeline.devices.inventory import Device
from pipeline.devices.preflight import read_facts
from pipeline.devices.requirements import USUAL, check
from pipeline.errors import DeployError, DeviceError
from pipeline.progress import Silent
from targets.target import find_target

ROOT = Path(__file__).parents[2]
ENDLESS = {
    "stdout": "yes",
    "one line of stdout": "tr '\\0' x </dev/zero",
    "stderr": "yes >&2",
    "one line of stderr": "tr '\\0' x </dev/zero >&2",
}


@pytest.mark.long
@pytest.mark.parametrize("what", ENDLESS)
def test_endless_output_is_cut_and_takes_no_memory(what: str) -> None:
    """In a process of its own, whose memory nothing else has used."""
    program = f"""
import resource, sys
from local_device import connected, local
from pipeline.errors import DeviceError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with connected(local()) as connection:
        connection.run("counting", {ENDLESS[what]!r})
except DeviceError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said, grown = done.stdout.splitlines()
    assert "endless output while counting" in said
    assert int(grown) < 100
    assert time.monotonic() - started < 60


def test_what_a_script_says_is_kept_to_its_end() -> None:
    with connected(local()) as made, pytest.raises(DeviceError, match=r"\n99998\n99999\n100000$"):
        made.run("counting", "seq 100000 >&2; exit 3")
    with connected(local()) as made:
        assert len(made.run("counting", "seq 100000").stdout.splitlines()) == 100_000


def tar_of(*sizes: int) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for number, size in enumerate(sizes):
            entry = tarfile.TarInfo(f"{number}.bin")
            entry.size = size
            archive.addfile(entry, io.BytesIO(bytes(size)))
    return written.getvalue()


@pytest.mark.parametrize("sizes", [(600, 600), (1,) * 70])
def test_a_proof_that_is_too_large_is_not_kept(
    sizes: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_PROOF_BYTES", 1000)
    work = tmp_path / "work"
    (work / "jobs" / "1" / "out").mkdir(parents=True)
    for number, size in enumerate(sizes):
        (work / "jobs" / "1" / "out" / f"{number}.bin").write_bytes(bytes(size))
    there = tmp_path / "there"
    there.mkdir()
    with connected(replace(local(), folder=str(work))) as made, pytest.raises(DeviceError, match="nothing of it was"):
        store.fetch(made, "1", there)


def test_a_proof_that_does_not_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that claims a gigabyte more than is allowed, and zeros without end after it."""
    head = tarfile.TarInfo("model.engine")
    head.size = store.MAX_PROOF_BYTES + 1
    (tmp_path / "head").write_bytes(head.tobuf())
    with connected(local()) as made:
        run = made.run
        monkeypatch.setattr(
            made, "run", lambda doing, _script, job, into: run(doing, f"cat {tmp_path}/head /dev/zero", job, into=into)
        )
        with pytest.raises(DeviceError, match="nothing of it was kept"):
            store.fetch(made, "1", tmp_path)
    assert not (tmp_path / "model.engine").exists()


def mutated(text: str, seed: int) -> str:
    """An answer with a line lost, doubled, or of other content."""
    chance = random.Random(seed)
    lines = text.splitlines()
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(lines))
        kind = chance.randrange(4)
        if kind == 0:
            del lines[place]
        elif kind == 1:
            lines.insert(place, lines[place])
        elif kind == 2:
            lines[place] = chance.choice(
                ["9" * 5000, "-1", "", "\x00\x1b[2J", "[" * 5000, "NAME=9 W", " " * 100 + "9" * 99]
            )
        else:
            lines[place] = lines[place][: chance.randrange(len(lines[place]) + 1)] + "9" * 20
    return "\n".join(lines) + "\n"


@pytest.mark.slow
def test_whatever_a_device_says_of_itself_is_an_error_about_it_alone() -> None:
    target, device = find_target("orin-jp61"), Device(name="orin", address="me@orin")
    raised = set()
    for seed in range(3000):
        said = mutated(answer(ORIN_JP62 if seed % 2 else PC), seed)
        try:
            with parsing_answer(device, "its answer about itself"):
                check(device, read_facts(said), target, USUAL[target.runtime])
        except DeviceError as error:
            raised.add(str(error)[:40])
        except DeployError:
            # It is understood, and unfit.
            continue
    assert raised


def test_one_that_answers_rubbish_does_not_end_the_check_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was found: sections that are missing ended the whole command in a traceback."""
    ssh = tmp_path / "ssh"
    ssh.write_text(
        "#!/bin/sh\n"
        'case "$*" in *-G*) exit 0;; esac\n'
        'for word in "$@"; do [ "$last" = -S ] && socket=$word; last=$word; done\n'
        'case "$*" in *" -M "*) : >"$socket"; exec sleep 60;; esac\n'
        "echo '@@ machine'; echo x86_64; echo '@@ end'\n"
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    broken = [Device(name=f"broken-{number}", address=f"me@b{number}", target="cpu") for number in (1, 2)]
    found = checkup.check_all([broken[0], replace(local(), target="cpu"), broken[1]], progress=Silent())
    assert [each.device.name for each in found] == ["broken-1", "local", "broken-2"]
    for each in (found[0], found[2]):
        assert isinstance(each.error, DeviceError)
        assert "its answer about itself cannot be parsed" in str(each.error)
    assert found[1].survey is not None or found[1].error is not None
    assert "cannot be parsed" not in str(found[1].error)
