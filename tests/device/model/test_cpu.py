import platform
import struct
from pathlib import Path

import pytest

from targets.device.model import cpu

COMMON = "fpu sse sse2 ssse3 sse4_1 avx avx2 fma"
CASES = [
    pytest.param("x86_64", f"flags\t\t: {COMMON} avx512bw avx512_vnni", "avx512_vnni", False, id="Ice Lake"),
    pytest.param("x86_64", f"flags\t\t: {COMMON} avx_vnni", "avx_vnni", False, id="Alder Lake"),
    pytest.param("x86_64", f"flags\t\t: {COMMON} avx512f avx512bw", "avx512", True, id="Skylake-X"),
    pytest.param("x86_64", f"flags\t\t: {COMMON}", "avx2", True, id="Zen 3"),
    pytest.param("x86_64", "flags\t\t: fpu sse sse2 avx", "avx", True, id="Sandy Bridge"),
    pytest.param("x86_64", "", "sse", True, id="x86 without a word"),
    pytest.param("aarch64", "Features\t: fp asimd aes asimddp i8mm", "i8mm", False, id="Graviton3"),
    pytest.param("aarch64", "Features\t: fp asimd asimddp", "dotprod", False, id="Cortex-A76"),
    pytest.param("aarch64", "Features\t: fp asimd", "neon", False, id="Cortex-A72"),
    pytest.param("aarch64", f"flags\t\t: {COMMON}", "neon", False, id="emulated ARM that shows its host"),
    pytest.param("riscv64", "isa\t: rv64imafdc", "unknown", False, id="RISC-V"),
]


@pytest.mark.parametrize(("machine", "cpuinfo", "best", "saturates"), CASES)
def test_best_instruction_set(machine: str, cpuinfo: str, best: str, saturates: bool) -> None:
    assert cpu.instruction_set(cpuinfo, machine) == best
    assert cpu.instruction_sets(cpuinfo, machine)[0] == best
    assert cpu.saturates_8bit(cpuinfo, machine) is saturates


def test_all_sets_are_named_best_first() -> None:
    found = cpu.instruction_sets(f"flags : {COMMON} avx512bw avx512_vnni", "x86_64")
    assert found == ("avx512_vnni", "avx512", "avx2", "avx", "sse")


def test_only_the_first_processor_is_read() -> None:
    text = "processor : 0\nflags : sse2 avx avx2\n\nprocessor : 1\nflags : sse2 avx avx2 avx_vnni\n"
    assert cpu.instruction_set(text, "x86_64") == "avx2"


def test_this_machine_is_known() -> None:
    assert cpu.instruction_set() != "unknown"


def test_a_machine_without_cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "absent")
    assert cpu.instruction_sets(machine="x86_64") == ("sse",)


@pytest.mark.parametrize(
    ("hwcaps", "sets"),
    [
        pytest.param((0xECFFFFFB, 0x7F877FFF), ("i8mm", "dotprod", "neon"), id="QEMU's largest"),
        pytest.param((0x119FFF, 0x0), ("dotprod", "neon"), id="Cortex-A76: Raspberry Pi 5"),
        pytest.param((0x8FB, 0x0), ("neon",), id="Cortex-A72: Raspberry Pi 4"),
        pytest.param((0x1, 0x2000), ("i8mm", "neon"), id="the second word alone"),
    ],
)
def test_arm_is_read_from_the_auxiliary_vector(hwcaps: tuple[int, int], sets: tuple[str, ...]) -> None:
    """The values are those of `getauxval` on, or as QEMU shows, these CPUs; an emulator's cpuinfo is its host's."""
    assert cpu.instruction_sets(f"flags : {COMMON}", "aarch64", hwcaps) == sets


def test_the_auxiliary_vector_of_x86_is_not_read_as_arms() -> None:
    assert cpu.instruction_sets(f"flags : {COMMON}", "x86_64", (0xECFFFFFB, 0x7F877FFF))[0] == "avx2"


def test_this_process_has_an_auxiliary_vector() -> None:
    content = Path("/proc/self/auxv").read_bytes()
    raw = struct.unpack(f"@{len(content) // struct.calcsize('L')}L", content)
    expected = dict(zip(raw[::2], raw[1::2], strict=True))
    found = cpu._auxiliary_vector()
    assert found is not None
    assert found[1] == expected.get(cpu.AT_HWCAP2, 0)
    # On x86 the C library answers with flags of its own in place of the kernel's.
    assert found[0] == expected[cpu.AT_HWCAP] or platform.machine() == "x86_64"


def test_without_the_auxiliary_vector_cpuinfo_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu, "_auxiliary_vector", lambda: None)
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    (tmp_path / "cpuinfo").write_text("Features\t: fp asimd asimddp\n")
    assert cpu.instruction_sets() == ("dotprod", "neon")


def test_a_processor_is_called_as_its_kernel_calls_it() -> None:
    assert (
        cpu.processor_name("processor : 0\nmodel name\t: AMD EPYC\n\nprocessor : 1\nmodel name : Other\n")
        == "AMD EPYC"
    )
    arm = "processor : 0\nCPU implementer : 0x41\nCPU part\t: 0xd42\n"
    assert cpu.processor_name(arm) == "implementer 0x41 part 0xd42"
    assert cpu.processor_name("") == "unknown"
