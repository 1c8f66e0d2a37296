"""Which instruction sets of this CPU matter to a network's kernels."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Optional, Tuple

CPUINFO = Path("/proc/cpuinfo")

# (our name, the kernel's flag), best first. Float kernels differ by instruction set too, hence the older ones.
X86 = (
    ("avx512_vnni", "avx512_vnni"),
    ("avx_vnni", "avx_vnni"),
    ("avx512", "avx512bw"),
    ("avx2", "avx2"),
    ("avx", "avx"),
    ("sse", "sse2"),
)
ARM = (("i8mm", "i8mm"), ("dotprod", "asimddp"), ("neon", "asimd"))
X86_MACHINES = ("x86_64", "amd64", "i386", "i686")
ARM_MACHINES = ("aarch64", "arm64")
VNNI = ("avx512_vnni", "avx_vnni")


def instruction_sets(cpuinfo: Optional[str] = None, machine: Optional[str] = None) -> Tuple[str, ...]:
    """What this CPU offers, best first; `cpuinfo` and `machine` stand in for another CPU."""
    machine = (platform.machine() if machine is None else machine).lower()
    flags = _flags(_read() if cpuinfo is None else cpuinfo)
    if machine in X86_MACHINES:
        # Every 64-bit x86 has SSE2, every 64-bit ARM has NEON; emulators may show another CPU's flags, or none.
        return tuple(name for name, flag in X86 if flag in flags or name == "sse")
    if machine in ARM_MACHINES:
        return tuple(name for name, flag in ARM if flag in flags or name == "neon")
    return ("unknown",)


def instruction_set(cpuinfo: Optional[str] = None, machine: Optional[str] = None) -> str:
    """The best instruction set of this CPU."""
    return instruction_sets(cpuinfo, machine)[0]


def saturates_8bit(cpuinfo: Optional[str] = None, machine: Optional[str] = None) -> bool:
    """Whether int8 products are added in 16 bits that can saturate: x86 without VNNI (`vpmaddubsw`).

    Two products of an unsigned 8-bit and a signed 8-bit number reach 2 x 255 x 127 = 64,770, beyond 32,767;
    with 7-bit weights (at most 63) they stay at 32,130.
    """
    found = instruction_sets(cpuinfo, machine)
    return "sse" in found and not any(name in found for name in VNNI)


def _read() -> str:
    try:
        return CPUINFO.read_text(errors="replace")
    except OSError:
        return ""


def _flags(cpuinfo: str) -> Tuple[str, ...]:
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return tuple(value.split())
    return ()
