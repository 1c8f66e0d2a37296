"""What glibc does with freed memory in a process that has asked it to be kept, and where it must not be asked."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline.training import allocator as malloc
from pipeline.training.allocator import SETTINGS, keep_freed_memory

ROOT = Path(__file__).parents[2]
HAS_GLIBC = "CS_GNU_LIBC_VERSION" in os.confstr_names and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
glibc_alone = pytest.mark.skipif(not HAS_GLIBC, reason="not glibc")
NAMES = {name for setting in SETTINGS for name in setting.names} | {"GLIBC_TUNABLES"}
SHOW = """
import sys
from pathlib import Path
import numpy as np
from pipeline.training.allocator import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def is_in_heap(address):
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]")]
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
    return any(low <= address < high for low, high in spans)

if "keep" in sys.argv:
    keep_freed_memory()
block = np.ones(2**26, dtype=np.uint8)
in_heap, before = is_in_heap(block.ctypes.data), resident()
del block
print("heap" if in_heap else "mapped", "kept" if before - resident() < 2**25 else "given back")
"""
WRAPPER = """
#include <stddef.h>
extern void *__libc_malloc(size_t size);
void *malloc(size_t size) { return __libc_malloc(size); }
"""


def shown(*arguments: str, **variables: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", SHOW, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**clean, "PYTHONPATH": str(ROOT), **variables},
    )
    return done.stdout.strip()


@glibc_alone
def test_a_large_block_is_in_the_heap_and_kept_when_it_is_freed() -> None:
    assert shown() == "mapped given back"
    assert shown("keep") == "heap kept"


@glibc_alone
@pytest.mark.parametrize(
    "variables",
    [
        {"MALLOC_MMAP_THRESHOLD_": "131072"},
        {"MALLOC_MMAP_MAX_": "65536"},
        {"GLIBC_TUNABLES": "glibc.malloc.check=0:glibc.malloc.mmap_threshold=131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"},
    ],
)
def test_what_the_user_has_set_stays(variables: dict[str, str]) -> None:
    assert shown("keep", **variables) == "mapped given back"


@pytest.mark.parametrize(
    ("variables", "left"),
    [
        ({}, [-3, -1, -2, -4]),
        ({"MALLOC_TRIM_THRESHOLD_": "131072"}, [-3, -2, -4]),
        ({"MALLOC_TOP_PAD_": "0"}, [-3, -1, -4]),
        ({"MALLOC_MMAP_MAX_": "65536"}, [-3, -1, -2]),
        ({"MALLOC_MMAP_THRESHOLD_": "131072"}, [-1, -2]),
        ({"GLIBC_TUNABLES": "glibc.malloc.top_pad=0:glibc.malloc.trim_threshold=1"}, [-3, -4]),
    ],
)
def test_each_setting_is_the_users_first(
    variables: dict[str, str], left: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        asked: ClassVar[list[int]] = []

        def __init__(self, name: str) -> None:
            pass

        def mallopt(self, option: int, value: int) -> None:
            self.asked.append(option)

    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(malloc, "_is_glibcs", lambda: True)
    monkeypatch.setattr(ctypes, "CDLL", Library)
    keep_freed_memory()
    assert Library.asked == left


@glibc_alone
def test_another_allocator_is_left_alone(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "wrapper.c", tmp_path / "wrapper.so"
    source.write_text(WRAPPER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    assert shown("keep", LD_PRELOAD=str(library)) == "mapped given back"


@pytest.mark.parametrize("answer", [None, "", "musl 1.2.5", ValueError("unrecognized configuration name")])
def test_nothing_is_asked_of_another_library(answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def confstr(name: str) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    def never(name: str) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(os, "confstr", confstr)
    monkeypatch.setattr(ctypes, "CDLL", never)
    keep_freed_memory()


def test_a_system_without_confstr_has_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "confstr", raising=False)
    keep_freed_memory()


@pytest.mark.parametrize("module", ["pipeline/cli/app.py", "pipeline/training/worker.py"])
def test_the_processes_of_a_training_ask(module: str) -> None:
    assert "    keep_freed_memory()\n" in (ROOT / module).read_text()
