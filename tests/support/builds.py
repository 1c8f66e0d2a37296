"""`deploy` in a process of its own, and a folder in which a build is done."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


# Quick, not good: the chain is what is tested; the margin is wide so that the verdict is known.
FAST = ("--macs", "0.8", "--epochs", "1", "--qat-epochs", "1", "--max-drop", "30", "--no-image")


def deploy(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=500,
    )
    assert done.returncode == code, done.stderr
    return done
