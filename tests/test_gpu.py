from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.errors import TargetError
from targets.base import CATALOGUE, Target, aliases, catalogue, find_target, read_target
from targets.gpu import check_dla, gpu_from

ORIN = (CATALOGUE / "orin-jp61.toml").read_text()
NVIDIA = [target for target in catalogue() if target.gpu is not None]


def test_jetson_is_the_newest_orin() -> None:
    assert find_target("jetson").name == "orin-jp72"
    assert set(aliases().values()) <= {target.name for target in catalogue()}


@pytest.mark.parametrize("target", NVIDIA, ids=lambda target: target.name)
def test_what_is_stated_fits_together(target: Target) -> None:
    gpu = target.gpu
    assert gpu is not None
    assert gpu.is_jetson == (target.platform == "linux/arm64") == bool(gpu.l4t)
    assert bool(gpu.driver) is not gpu.is_jetson
    assert set(gpu.modules_without_dla) <= set(gpu.modules)
    assert (gpu.dla_cores == 0) == (set(gpu.modules_without_dla) == set(gpu.modules))
    assert gpu.memory_gib[0] <= gpu.memory_gib[1]
    assert "host" not in target.provable_at or not gpu.is_jetson


def test_the_facts_that_break_engines_are_the_published_ones() -> None:
    facts = {target.name: target.gpu for target in NVIDIA}
    assert {name: gpu.tensorrt for name, gpu in facts.items() if gpu and gpu.is_jetson} == {
        "orin-jp51": "8.5.2",
        "xavier-jp51": "8.5.2",
        "orin-jp60": "8.6.2.3",
        "orin-jp61": "10.3.0.30",
        "orin-jp72": "10.16.2.10",
        "thor-jp70": "10.13.3.9",
        "thor-jp72": "10.16.2.10",
    }
    assert {gpu.compute_capability for name, gpu in facts.items() if gpu and name.startswith("orin")} == {("8.7",)}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nano", r"the target nano has no int8, and ends with JetPack 4 .*Take an Orin Nano \(orin-jp61\)"),
        ("tx2", r"the target tx2 has no int8.*orin-jp61"),
        ("xavier-jp46", r"JetPack 4 .*take xavier-jp51"),
        ("jetsn", r"no target 'jetsn'\. Did you mean jetson\?"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(name: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        find_target(name)


@pytest.mark.parametrize(
    ("name", "module", "said"),
    [
        ("cpu", "", "the target cpu is a CPU: it has no DLA"),
        ("orin-jp61", "Orin Nano 8GB", "Orin Nano 8GB has no DLA core. Build for its GPU"),
        ("orin-jp61", "Orin Nano 8", "no module 'Orin Nano 8'. Did you mean Orin Nano 8GB?"),
        ("orin-jp72", "", "no DLA to build for: TensorRT 10.16.2.10 builds for none there. .* take orin-jp61"),
        ("thor-jp72", "AGX Thor T5000", "AGX Thor T5000 has no DLA core"),
        ("gpu-ada", "", "a GPU in a PC has none"),
    ],
)
def test_a_dla_that_is_not_there_is_refused(name: str, module: str, said: str) -> None:
    with pytest.raises(TargetError, match=said.replace("?", r"\?")):
        check_dla(name, find_target(name).gpu, module=module)


@pytest.mark.parametrize("module", ["", "AGX Orin 64GB", "Orin NX 8GB"])
def test_a_dla_that_is_there_is_not(module: str) -> None:
    check_dla("orin-jp61", find_target("orin-jp61").gpu, module=module)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            ORIN.replace("tensorrt = ", "tensort = "), r"unknown key 'tensort'\. Did you mean tensorrt", id="key"
        ),
        pytest.param(ORIN.replace('cuda = "12.6"\n', ""), r"\[gpu\] lacks cuda", id="missing"),
        pytest.param(ORIN.replace("int8 = true", "int8 = 1"), "int8 = 1: true or false", id="flag"),
        pytest.param(ORIN.partition("[gpu]")[0], r"needs a table \[gpu\]", id="no table"),
        pytest.param(ORIN.replace('runtime = "tensorrt"', 'runtime = "onnxruntime"'), "no other one has it", id="CPU"),
    ],
)
def test_a_file_of_the_users_own_is_checked(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(TargetError, match=said):
        read_target(tmp_path / "own.toml")


def test_the_table_comes_through_as_it_is_written() -> None:
    gpu = find_target("orin-jp61").gpu
    assert gpu is not None
    assert gpu_from(asdict(gpu)) == gpu
