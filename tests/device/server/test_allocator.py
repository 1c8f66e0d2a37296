"""Memory of large images goes back to the system, whichever thread had it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys, threading
from PIL import Image
from targets.device.server.allocator import return_large_blocks
if {told}:
    assert return_large_blocks()

def work():
    for _ in range(3):
        Image.new("RGB", (6000, 6000)).close()

for _ in range(2):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) >> 10 for line in status if line.startswith("VmRSS")))
"""
IMAGE_MIB = 6000 * 6000 * 4 >> 20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_large_blocks_go_back() -> None:
    def resident(*, told: bool) -> int:
        program = PROGRAM.format(told=told)
        return int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT).stdout)

    assert resident(told=False) - resident(told=True) > 0.8 * IMAGE_MIB
