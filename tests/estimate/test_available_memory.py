"""How much memory a process may use, read from machines made of files."""

from pathlib import Path

import pytest

from pipeline.estimate.available_memory import capacity, gib

GIB = 2**30
MEMINFO = (
    "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\nHugePages_Total:       0\n"
)
V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "33 31 0:30 {shown} /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {shown} /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory\n"
)


def machine(root: Path, *, groups: str = "", mounts: str = "", **files: object) -> Path:
    """16 GiB, of which 8 are available; `files`: values by path below `sys/fs/cgroup`."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text(MEMINFO)
    (root / "proc" / "self" / "cgroup").write_text(groups)
    (root / "proc" / "self" / "mountinfo").write_text(mounts)
    for name, value in files.items():
        file = root / "sys" / "fs" / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    return root


def test_without_groups_it_is_the_machines(tmp_path: Path) -> None:
    found = capacity(machine(tmp_path))
    assert (found.total, found.available, found.limited_by) == (16 * GIB, 8 * GIB, None)


def test_a_group_of_version_2_limits(tmp_path: Path) -> None:
    files = {"app/memory.max": 4 * GIB, "app/memory.current": GIB, "memory.max": "max"}
    found = capacity(machine(tmp_path, groups="0::/app\n", mounts=V2, **files))
    assert (found.total, found.available) == (4 * GIB, 3 * GIB)
    assert found.limited_by == str(tmp_path / "sys/fs/cgroup/app/memory.max")


def test_file_pages_that_can_be_dropped_are_available(tmp_path: Path) -> None:
    files = {
        "memory.max": 4 * GIB,
        "memory.current": 3 * GIB,
        "memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}\nactive_file 0",
    }
    assert capacity(machine(tmp_path, groups="0::/\n", mounts=V2, **files)).available == 3 * GIB


@pytest.mark.parametrize(("inner", "outer"), [(6, 3), (3, 6)])
def test_of_nested_groups_the_smallest_limits(tmp_path: Path, inner: int, outer: int) -> None:
    files = {
        "a.slice/memory.max": outer * GIB,
        "a.slice/b.service/memory.max": inner * GIB,
        "a.slice/b.service/c/memory.max": "max",
    }
    found = capacity(machine(tmp_path, groups="0::/a.slice/b.service/c\n", mounts=V2, **files))
    assert found.total == 3 * GIB


def test_no_limit_and_one_above_the_machine_are_none(tmp_path: Path) -> None:
    for index, limit in enumerate(["max", 64 * GIB, 9223372036854771712]):
        root = machine(tmp_path / str(index), groups="0::/\n", mounts=V2, **{"memory.max": limit})
        assert capacity(root).total == 16 * GIB
        assert capacity(root).limited_by is None


def test_a_group_of_version_1_limits(tmp_path: Path) -> None:
    groups = "9:name=systemd:/\n4:memory:/user/one\n3:cpu,cpuacct:/user\n0::/\n"
    files = {
        "memory/memory.limit_in_bytes": 9223372036854771712,
        "memory/user/memory.limit_in_bytes": 6 * GIB,
        "memory/user/one/memory.limit_in_bytes": 9 * GIB,
        "memory/user/memory.usage_in_bytes": 5 * GIB,
        "memory/user/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}",
    }
    found = capacity(machine(tmp_path, groups=groups, mounts=V1.format(shown="/"), **files))
    assert (found.total, found.available) == (6 * GIB, 2 * GIB)


def test_a_container_sees_its_group_at_the_top(tmp_path: Path) -> None:
    """Version 1 names the group as the host does, where it is not the container's own root."""
    groups, files = "4:memory:/docker/abc/inside\n", {"memory/memory.limit_in_bytes": 2 * GIB}
    found = capacity(machine(tmp_path, groups=groups, mounts=V1.format(shown="/docker/abc"), **files))
    assert found.total == 2 * GIB


def test_a_group_outside_of_what_is_seen_counts_as_the_top(tmp_path: Path) -> None:
    files = {"memory.max": 2 * GIB}
    assert capacity(machine(tmp_path, groups="0::/../other\n", mounts=V2, **files)).total == 2 * GIB


def test_another_system_has_what_it_says(tmp_path: Path) -> None:
    found = capacity(tmp_path)
    assert found.total == found.available > 0
    assert found.limited_by is None


def test_this_machine_can_be_asked() -> None:
    found = capacity()
    assert 0 < found.available <= found.total


def test_bytes_in_words() -> None:
    assert gib(int(5.24 * GIB)) == "5.2 GiB"
