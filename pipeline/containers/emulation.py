"""What a container needs where QEMU runs it: a /proc/cpuinfo of its own architecture."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.containers.engine import Engine

# QEMU's user mode emulation up to 7.2 shows the host's file, and the cpuinfo library in ONNX Runtime for ARM crashes
# on one of x86. It takes from it who made the core, here an Arm Cortex-A76, and what it can do from the auxiliary
# vector, which is QEMU's.
CORE = "processor\t: {}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\n\n"


@contextmanager
def volumes_for(engine: Engine, image: str) -> Iterator[dict[str, dict[str, str]]]:
    """Mounts for a container of `image`, in the SDK's words; none where the engine runs it natively."""
    if not engine.emulates(image):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="edge-deploy-") as folder:
        shown = Path(folder) / "cpuinfo"
        shown.write_text("".join(CORE.format(index) for index in range(os.cpu_count() or 1)))
        Path(folder).chmod(0o755)
        yield {str(shown): {"bind": "/proc/cpuinfo", "mode": "ro"}}
