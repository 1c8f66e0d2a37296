"""An artifact with a saturation-safe variant in it, and CPUs to run it on."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_package import TinyPackage, with_manifest, write_tiny_package

from targets.device.model import cpu
from targets.device.model.manifest import Manifest, read_manifest
from targets.device.model.variant import FOLDER

VNNI = "flags\t\t: fpu sse sse2 avx avx2 avx512bw avx512_vnni\n"
AVX2 = "flags\t\t: fpu sse sse2 avx avx2\n"


@dataclass(frozen=True, kw_only=True)
class TinyVariant:
    """Proven on a CPU with VNNI; the variant's weights have 7 bits, so its answers are a little different."""

    main: TinyPackage
    safe: TinyPackage

    @property
    def folder(self) -> Path:
        return self.main.folder

    @property
    def manifests(self) -> tuple[Manifest, Manifest]:
        return read_manifest(self.folder), read_manifest(self.folder / FOLDER)


def write_tiny_variant(folder: Path) -> TinyVariant:
    made = TinyVariant(
        main=write_tiny_package(folder, weight_bits=8), safe=write_tiny_package(folder / FOLDER, weight_bits=7)
    )
    for package in (made.main, made.safe):
        with_manifest(package.folder, instruction_set="avx512_vnni")
    return made


def run_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpuinfo: str, machine: str = "x86_64") -> None:
    """Show this process another CPU; what computes remains this one."""
    shown = tmp_path / "cpuinfo"
    shown.write_text(cpuinfo)
    monkeypatch.setattr(cpu, "CPUINFO", shown)
    monkeypatch.setattr(cpu, "_auxiliary_vector", lambda: None)
    monkeypatch.setattr("platform.machine", lambda: machine)
