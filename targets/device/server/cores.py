"""The number of cores this process may use, by CPU affinity and cgroup quota."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

CGROUP_2 = Path("sys/fs/cgroup/cpu.max")
QUOTA_1, PERIOD_1 = Path("sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("sys/fs/cgroup/cpu/cpu.cfs_period_us")


def cores_allowed(root: Path = Path("/")) -> int:
    """Return the number of cores, at least 1; a quota of 2.5 cores counts as 2."""
    by_affinity = len(os.sched_getaffinity(0))
    quota = _quota(root)
    return by_affinity if quota is None else max(1, min(by_affinity, int(quota)))


def _quota(root: Path) -> Optional[float]:
    """Return the cgroup quota in cores; None if there is none or it cannot be read."""
    try:
        if (root / CGROUP_2).is_file():
            text, period = (root / CGROUP_2).read_text(encoding="ascii").split()
        else:
            text = (root / QUOTA_1).read_text(encoding="ascii").strip()
            period = (root / PERIOD_1).read_text(encoding="ascii").strip()
        return None if text == "max" or int(text) <= 0 else int(text) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
