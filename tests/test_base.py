from pathlib import Path

import pytest

from pipeline.artifacts import Dialect, Place, Precision
from pipeline.errors import TargetError
from targets.base import CATALOGUE, Target, catalogue, find_target, read_target

CPU = (CATALOGUE / "cpu.toml").read_text()


def test_the_catalogue_is_readable_and_named_after_its_files() -> None:
    names = [target.name for target in catalogue()]
    assert names == sorted(path.stem for path in CATALOGUE.glob("*.toml"))
    assert "cpu" in names


def test_cpu_is_what_it_says() -> None:
    cpu = find_target("cpu")
    assert cpu.platform == "linux/amd64"
    assert cpu.dialect is Dialect.ONNXRUNTIME
    assert cpu.precisions == (Precision.FP32, Precision.INT8)
    assert cpu.required_place is Place.IMAGE


@pytest.mark.parametrize("target", catalogue(), ids=lambda target: target.name)
def test_every_target_can_be_proven_where_it_must(target: Target) -> None:
    assert target.required_place in target.provable_at
    assert target.precisions
    assert target.channel_multiple >= 1


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(CPU)
    target = find_target(str(tmp_path / "gateway.toml"))
    assert target.name == "gateway"
    (tmp_path / "named.toml").write_text('name = "line-3"\n' + CPU)
    assert find_target(str(tmp_path / "named.toml")).name == "line-3"


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(TargetError, match=r"no target 'cpuu'\. Did you mean cpu\?.*or the path of a TOML file"):
        find_target("cpuu")
    with pytest.raises(TargetError, match=r"no target 'toaster'\. Known: "):
        find_target("toaster")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(TargetError, match=r"absent\.toml does not exist"):
        find_target("absent.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("platform = ", "is not valid TOML", id="TOML"),
        pytest.param(CPU + "\nruntme = 'x'\n", r"unknown key 'runtme'\. Did you mean runtime\?", id="key"),
        pytest.param(CPU.replace("base_image", "# base_image"), "lacks base_image", id="missing"),
        pytest.param(CPU.replace("linux/amd64", "windows"), "wrong value: 'windows' is not one of", id="platform"),
        pytest.param(CPU.replace('"int8"', '"int4"'), "wrong value: 'int4' is not a valid Precision", id="precision"),
        pytest.param(CPU.replace("= 16", '= "many"'), "wrong value", id="number"),
    ],
)
def test_wrong_files_are_refused_with_their_mistake(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(TargetError, match=said) as caught:
        read_target(tmp_path / "own.toml")
    assert "own.toml" in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TargetError, match="is not valid TOML"):
        read_target(tmp_path / "own.toml")
