"""The instruction sets of this CPU that matter for a network's kernels."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path
from typing import Dict, Optional, Tuple

CPUINFO = Path("/proc/cpuinfo")
# Keys of the auxiliary vector, in which the kernel passes the CPU's features to each process (linux/auxvec.h).
AT_HWCAP, AT_HWCAP2 = 16, 26

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
# The kernel's flags of ARM as bits of AT_HWCAP and AT_HWCAP2 (arch/arm64/include/uapi/asm/hwcap.h).
HWCAP = (("asimd", 1 << 1), ("asimddp", 1 << 20))
HWCAP2 = (("i8mm", 1 << 13),)
X86_MACHINES = ("x86_64", "amd64", "i386", "i686")
ARM_MACHINES = ("aarch64", "arm64")
VNNI = ("avx512_vnni", "avx_vnni")


def instruction_sets(
    cpuinfo: Optional[str] = None, machine: Optional[str] = None, hwcaps: Optional[Tuple[int, int]] = None
) -> Tuple[str, ...]:
    """Return this CPU's instruction sets, best first; `cpuinfo`, `machine` and `hwcaps` describe another CPU.

    On ARM the auxiliary vector comes first: in an emulated container, /proc/cpuinfo may be the host's.
    """
    if hwcaps is None and cpuinfo is None and machine is None:
        hwcaps = _auxiliary_vector()
    machine = (platform.machine() if machine is None else machine).lower()
    if hwcaps is not None and machine in ARM_MACHINES:
        flags = arm_flags(hwcaps)
    else:
        flags = _flags(_read() if cpuinfo is None else cpuinfo)
    if machine in X86_MACHINES:
        # Every 64-bit x86 has SSE2, every 64-bit ARM has NEON; emulators may report another CPU's flags, or none.
        return tuple(name for name, flag in X86 if flag in flags or name == "sse")
    if machine in ARM_MACHINES:
        return tuple(name for name, flag in ARM if flag in flags or name == "neon")
    return ("unknown",)


def instruction_set(cpuinfo: Optional[str] = None, machine: Optional[str] = None) -> str:
    """Return the best instruction set of this CPU."""
    return instruction_sets(cpuinfo, machine)[0]


def processor_name(cpuinfo: Optional[str] = None) -> str:
    """Return the CPU's model name, or on ARM its part number; "unknown" if the kernel does not report it."""
    text = _read() if cpuinfo is None else cpuinfo
    found: Dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip().lower(), value.strip())
    if "model name" in found:
        return found["model name"]
    if "cpu part" in found:
        return f"implementer {found.get('cpu implementer', '?')} part {found['cpu part']}"
    return "unknown"


def saturates_8bit(cpuinfo: Optional[str] = None, machine: Optional[str] = None) -> bool:
    """Return whether int8 products are summed in 16 bits, which can saturate: x86 without VNNI (`vpmaddubsw`).

    Two products of an unsigned 8-bit and a signed 8-bit number reach 2 x 255 x 127 = 64,770, beyond 32,767;
    with 7-bit weights (at most 63) they stay at 32,130.
    """
    found = instruction_sets(cpuinfo, machine)
    return "sse" in found and not any(name in found for name in VNNI)


def arm_flags(hwcaps: Tuple[int, int]) -> Tuple[str, ...]:
    """Return the kernel's names of the relevant flags in AT_HWCAP and AT_HWCAP2 of an aarch64 CPU."""
    first, second = hwcaps
    return (*(name for name, bit in HWCAP if first & bit), *(name for name, bit in HWCAP2 if second & bit))


def _auxiliary_vector() -> Optional[Tuple[int, int]]:
    """Return AT_HWCAP and AT_HWCAP2 of this process; None if `getauxval` is missing or returns nothing."""
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (AttributeError, OSError, TypeError):
        return None
    getauxval.restype = ctypes.c_ulong
    getauxval.argtypes = (ctypes.c_ulong,)
    found = (int(getauxval(AT_HWCAP)), int(getauxval(AT_HWCAP2)))
    return found if found[0] else None


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
