from pathlib import Path

import pytest

from targets.device import cpu

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
