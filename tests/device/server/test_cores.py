"""How many cores a process may use."""

import os
from pathlib import Path

import pytest

from targets.device.server.cores import cores_allowed

ALL = len(os.sched_getaffinity(0))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", ALL), ("100000 100000\n", 1), ("50000 100000\n", 1), ("150000 100000\n", 1), ("rubbish", ALL)],
)
def test_the_quota_of_a_group_of_version_2_limits(text: str, cores: int, tmp_path: Path) -> None:
    write(tmp_path / "sys/fs/cgroup/cpu.max", text)
    assert cores_allowed(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1\n", ALL), ("100000\n", 1), ("", ALL)])
def test_the_quota_of_a_group_of_version_1_limits(quota: str, cores: int, tmp_path: Path) -> None:
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota)
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cores_allowed(tmp_path) == cores


def test_a_quota_never_gives_more_than_the_affinity(tmp_path: Path) -> None:
    write(tmp_path / "sys/fs/cgroup/cpu.max", "99900000 100000\n")
    assert cores_allowed(tmp_path) == ALL
    assert cores_allowed(tmp_path / "nothing") == ALL
