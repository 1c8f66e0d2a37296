"""The answers of devices, read; those in `preflight_answers` are written by hand, this machine's own is real."""

import re
import subprocess
from pathlib import Path

import pytest
from preflight_answers import (
    NANO_SUPER_JP62,
    ORIN_JP62,
    PC,
    RTX_4090,
    THOR_JP70,
    XAVIER_JP51,
    answer,
)

from pipeline.devices.preflight import fits, jetpack_of, read_facts
from pipeline.devices.requirements import SCRIPT
from pipeline.devices.ssh import PRELUDE
from pipeline.errors import DeviceError


def ask_here(work: Path, docker: str = "docker", base: str = "") -> str:
    words = ["sh", "-c", PRELUDE + SCRIPT.read_text(), "sh", str(work), docker, base]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout


def test_this_machine_answers_as_the_written_ones_do(tmp_path: Path) -> None:
    """Work's folder need not be there; the script changes nothing, and needs no Docker."""
    text = ask_here(tmp_path / "a" / "b", docker="no-such-docker")
    assert re.findall(r"^@@ (\S+)$", text, re.MULTILINE) == list(PC)
    found = read_facts(text)
    assert found.platform in ("linux/amd64", "linux/arm64")
    assert found.work == str(tmp_path / "a" / "b")
    assert (found.has_docker, found.docker, found.docker_problem) == (False, None, None)
    assert found.work_free_bytes is not None
    assert found.memory_bytes is not None
    assert found.memory_bytes > 1e8
    assert found.instruction_sets
    assert found.missing == ()
    assert not (tmp_path / "a").exists()


def test_home_is_the_devices_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_facts(ask_here(Path("~/.cache/edge-deploy"), "none")).work == f"{tmp_path}/.cache/edge-deploy"


@pytest.mark.parametrize(
    ("sections", "l4t", "jetpack", "mode", "highest", "pinned", "hottest"),
    [
        (PC, None, None, None, None, False, 41.0),
        (RTX_4090, None, None, None, None, False, 41.0),
        (ORIN_JP62, "36.4.3", "6.2", "MAXN", "MAXN", True, 49.875),
        (NANO_SUPER_JP62, "36.4.3", "6.2", "15W", "MAXN_SUPER", False, 49.875),
        (XAVIER_JP51, "35.4.1", "5.1.2", "MODE_20W_6CORE", "MODE_20W_6CORE", False, 49.875),
        (THOR_JP70, "38.2.0", "7.0", "120W", "MAXN", False, 49.875),
    ],
    ids=["pc", "rtx-4090", "orin-jp62", "nano-super-jp62", "xavier-jp51", "thor-jp70"],
)
def test_what_a_device_is(
    sections: dict[str, str],
    l4t: str | None,
    jetpack: str | None,
    mode: str | None,
    highest: str | None,
    pinned: bool,
    hottest: float,
) -> None:
    found = read_facts(answer(sections))
    assert (found.l4t, found.jetpack, found.power_mode, found.highest_power_mode) == (l4t, jetpack, mode, highest)
    assert found.clocks_pinned is pinned
    assert found.temperature == hottest
    assert found.docker is not None


def test_what_a_card_is() -> None:
    (card,) = read_facts(answer(RTX_4090)).cards
    assert (card.name, card.driver, card.compute_capability) == ("NVIDIA GeForce RTX 4090", "580.65.06", "8.9")
    assert card.memory_bytes == 24564 << 20
    assert read_facts(answer(THOR_JP70)).cards[0].memory_bytes is None
    assert read_facts(answer(PC)).cards == ()


def test_an_engine_that_refuses_is_quoted() -> None:
    said = "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock"
    found = read_facts(answer(PC | {"docker-version": said, "docker-runtimes": "", "docker-free": ""}))
    assert (found.docker, found.docker_problem, found.runtimes) == (None, said, ())
    assert found.docker_free_bytes is None


def test_runtimes_and_instruction_sets() -> None:
    found = read_facts(answer(ORIN_JP62))
    assert "nvidia" in found.runtimes
    assert found.instruction_sets == ("dotprod", "neon")
    assert read_facts(answer(PC)).instruction_sets[0] == "avx512_vnni"


def test_an_answer_that_is_cut_short_is_refused() -> None:
    whole = answer(PC)
    with pytest.raises(DeviceError, match="is truncated"):
        read_facts(whole[: whole.index("@@ memory")])
    with pytest.raises(DeviceError, match="is truncated"):
        read_facts("")


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [
        ("32.7.1", "4"),
        ("35.2.1", "5.1"),
        ("35.6.0", "5.1.4"),
        ("35.6.1", "5.1.5"),
        ("35.6.4", "5.1.6"),
        ("36.3.0", "6.0"),
        ("36.4", "6.1"),
        ("36.4.0", "6.1"),
        ("36.4.7", "6.2.1"),
        ("36.5.0", "6.2.2"),
        ("38.4.0", "7.1"),
        ("39.2.0", "7.2"),
        ("40.1.0", None),
        ("36.40.0", None),
    ],
)
def test_jetpack(l4t: str, jetpack: str | None) -> None:
    assert jetpack_of(l4t) == jetpack


def test_versions_fit_by_whole_parts() -> None:
    assert fits("36.4.3", "36.4")
    assert fits("36.4", "36.4")
    assert not fits("36.40", "36.4")
