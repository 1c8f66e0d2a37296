"""The table [gpu] of the catalogue and of a user's own file: the figures, and what is refused."""

from pathlib import Path

import pytest

from pipeline.errors import TargetError
from targets.base_images import known_bases
from targets.gpu import Gpu
from targets.target import CATALOGUE, Target, catalogue, find_target, read_target

ORIN = (CATALOGUE / "orin-jp61.toml").read_text()
WITH_GPU = [target for target in catalogue() if target.gpu is not None]


def gpu_of(name: str) -> Gpu:
    gpu = find_target(name).gpu
    assert gpu is not None
    return gpu


# Held against NVIDIA's tables of JetPack and of compute capabilities: JetPack, L4T, TensorRT, CUDA, Python, DLA.
JETSONS = {
    "orin-jp51": ("5.1", ("35.2", "35.3", "35.4", "35.5", "35.6"), "8.5.2", "11.4", "3.8", 2, ("8.7",)),
    "orin-jp60": ("6.0", ("36.3",), "8.6.2.3", "12.2", "3.10", 2, ("8.7",)),
    "orin-jp61": ("6.1-6.2", ("36.4", "36.5"), "10.3.0.30", "12.6", "3.10", 2, ("8.7",)),
    "orin-jp72": ("7.2", ("39.2",), "10.16.2.10", "13.2", "3.12", 0, ("8.7",)),
    "xavier-jp51": ("5.1", ("35.2", "35.3", "35.4", "35.5", "35.6"), "8.5.2", "11.4", "3.8", 2, ("7.2",)),
    "thor-jp70": ("7.0-7.1", ("38.2", "38.4"), "10.13.3.9", "13.0", "3.12", 0, ("11.0",)),
    "thor-jp72": ("7.2", ("39.2",), "10.16.2.10", "13.2", "3.12", 0, ("11.0",)),
}
CARDS = {
    "gpu-turing": ("7.5",),
    "gpu-ampere": ("8.0", "8.6"),
    "gpu-ada": ("8.9",),
    "gpu-hopper": ("9.0",),
    "gpu-blackwell": ("10.0", "10.3", "12.0"),
}


def test_the_catalogue_has_just_these_gpus() -> None:
    assert {target.name for target in WITH_GPU} == {*JETSONS, *CARDS}


@pytest.mark.parametrize("name", JETSONS)
def test_a_jetson_is_what_its_jetpack_brings(name: str) -> None:
    gpu = gpu_of(name)
    found = (gpu.jetpack, gpu.l4t, gpu.tensorrt, gpu.cuda, gpu.python, gpu.dla_cores, gpu.compute_capability)
    assert found == JETSONS[name]
    assert (gpu.driver, gpu.engine_build, gpu.is_jetson) == ("", "device", True)
    assert find_target(name).platform == "linux/arm64"


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_served_by_tensorrt_11_and_its_driver(name: str) -> None:
    gpu = gpu_of(name)
    assert gpu.compute_capability == CARDS[name]
    assert (gpu.jetpack, gpu.l4t, gpu.dla_cores, gpu.is_jetson) == ("", (), 0, False)
    assert (gpu.tensorrt, gpu.driver, gpu.engine_build) == ("11.1.0.106", ">=580", "host")
    assert find_target(name).platform == "linux/amd64"


def test_memory_spans_the_family() -> None:
    assert gpu_of("orin-jp61").memory_gib == (4, 64)
    assert gpu_of("xavier-jp51").memory_gib == (8, 64)
    assert gpu_of("thor-jp72").memory_gib[1] == 128


@pytest.mark.parametrize("target", WITH_GPU, ids=lambda target: target.name)
def test_the_base_image_has_the_python_and_the_tensorrt_that_are_stated(target: Target) -> None:
    assert target.gpu is not None
    base = known_bases()[target.base_image]
    assert (base.python, base.platform) == (target.gpu.python, target.platform)
    # The build number may differ: it is the image's that counts for an engine.
    assert base.tensorrt.split(".")[:2] == target.gpu.tensorrt.split(".")[:2]
    assert "@sha256" not in base.tag


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param("dla_cores", "dla_core", r"gpu\.dla_core: unknown key\. Did you mean dla_cores\?", id="key"),
        pytest.param("cuda = ", "# cuda = ", r"gpu\.cuda is missing", id="missing"),
        pytest.param(
            'tensorrt = "10.3.0.30"',
            "tensorrt = 10.3",
            r"gpu\.tensorrt = 10\.3: Input should be a string",
            id="number",
        ),
        pytest.param(
            '"10.3.0.30"', '"10.x"', r"tensorrt = '10\.x' has another form\. .*such as 10\.3\.0\.30", id="version"
        ),
        pytest.param('l4t = ["36.4", "36.5"]', 'l4t = "36.4"', "l4t = '36.4': Input should be a list", id="one-l4t"),
        pytest.param('l4t = ["36.4", "36.5"]', "l4t = []", "a Jetson needs both, a card neither", id="half-a-jetson"),
        pytest.param("[4, 64]", "[64, 4]", r"memory_gib = \[64, 4\] is not \[smallest, largest\]", id="memory"),
        pytest.param("[4, 64]", "8", "memory_gib = 8: Input should be a list", id="memory-number"),
        pytest.param("int8 = true", "int8 = 1", "int8 = 1: Input should be true or false", id="int8"),
        pytest.param("int8 = true", "int8 = false", r'"int8", but \[gpu\] says int8 = false', id="no-int8"),
        pytest.param('driver = ""', 'driver = ">=535"', "a Jetson's driver is part of L4T", id="driver"),
        pytest.param('["8.7"]', "[]", "need at least one entry each", id="no-capability"),
        pytest.param(
            'engine_build = "device"',
            'engine_build = "cloud"',
            "engine_build = 'cloud': Input should be 'device' or 'host'",
            id="place",
        ),
        pytest.param(
            "dla_cores = 2", "dla_cores = -1", "dla_cores = -1: Input should be greater than or equal to 0", id="dla"
        ),
        pytest.param(
            'runtime = "tensorrt"', 'runtime = "onnxruntime"', r"but the file has a table \[gpu\]", id="runtime"
        ),
        pytest.param(
            'dialect = "tensorrt"', 'dialect = "onnxruntime"', "is not supported by the runtime", id="dialect"
        ),
    ],
)
def test_a_wrong_file_is_refused_with_its_mistake(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert ORIN.count(old) >= 1
    (tmp_path / "own.toml").write_text(ORIN.replace(old, new))
    with pytest.raises(TargetError, match=said) as caught:
        read_target(tmp_path / "own.toml")
    assert "own.toml" in str(caught.value)


def test_tensorrt_without_its_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(ORIN.split("[gpu]")[0])
    with pytest.raises(TargetError, match=r'runtime = "tensorrt", but the file has no table \[gpu\]'):
        read_target(tmp_path / "own.toml")
    (tmp_path / "own.toml").write_text(ORIN.split("[gpu]")[0].replace("instruction_sets", "gpu = 5\ninstruction_sets"))
    with pytest.raises(TargetError, match="gpu = 5: Input should be a table"):
        read_target(tmp_path / "own.toml")


def test_a_board_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "line-3.toml").write_text(ORIN.replace("[4, 64]", "[8, 8]"))
    own = find_target(str(tmp_path / "line-3.toml"))
    assert own.gpu is not None
    assert (own.name, own.gpu.memory_gib) == ("line-3", (8, 8))
    assert len({own, own, find_target("orin-jp61")}) == 2


def test_jetpack_4_in_a_users_file_is_refused_with_the_reason_and_what_to_do(tmp_path: Path) -> None:
    old = ORIN.replace('"6.1-6.2"', '"4.6"').replace('["36.4", "36.5"]', '["32.7"]')
    (tmp_path / "tx2.toml").write_text(old)
    with pytest.raises(TargetError, match=r"tx2\.toml is for JetPack 4\.6 \(L4T 32\.7\): .*Python 3\.6.*xavier-jp51"):
        read_target(tmp_path / "tx2.toml")
