import re
from pathlib import Path

import pytest

from pipeline.artifacts import Dialect, Place, Precision
from pipeline.errors import TargetError
from targets.target import ALIASES, CATALOGUE, REFUSED, Target, aliases, catalogue, find_target, read_target

CPU = (CATALOGUE / "cpu.toml").read_text()


def test_the_catalogue_is_readable_and_named_after_its_files() -> None:
    names = [target.name for target in catalogue()]
    assert names == sorted(path.stem for path in CATALOGUE.glob("*.toml") if path not in (ALIASES, REFUSED))
    assert "cpu" in names
    assert "orin-jp72" in names


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


@pytest.mark.parametrize("target", catalogue(), ids=lambda target: target.name)
def test_every_target_is_for_a_cpu_or_for_a_gpu(target: Target) -> None:
    if target.gpu is None:
        assert (target.runtime, target.dialect) == ("onnxruntime", Dialect.ONNXRUNTIME)
        assert target.instruction_sets
        return
    assert (target.runtime, target.dialect, target.instruction_sets) == ("tensorrt", Dialect.TENSORRT, ())
    assert target.precisions == (Precision.FP32, Precision.FP16, Precision.INT8)
    places = (Place.SIMULATED, Place.DEVICE) if target.gpu.is_jetson else (Place.SIMULATED, Place.HOST, Place.DEVICE)
    assert (target.provable_at, target.required_place) == (places, Place.DEVICE)


def test_an_alias_is_another_name_of_a_target() -> None:
    names = {target.name for target in catalogue()}
    assert aliases()["jetson"] == "orin-jp72"
    assert set(aliases().values()) <= names
    assert not set(aliases()) & names
    assert find_target("jetson") == find_target("orin-jp72")


def test_jetson_is_the_newest_orin() -> None:
    orins = [target for target in catalogue() if target.name.startswith("orin-")]
    newest = max(orins, key=lambda target: float(target.gpu.l4t[-1]) if target.gpu else 0.0)
    assert find_target("jetson") == newest


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nano", r"Jetson Nano \(Maxwell, .* no int8 .*JetPack is 4.*Use an Orin Nano \(orin-jp61 or orin-jp72\)"),
        ("jetson-nano", "Jetson Nano"),
        ("Nano-2GB", "Jetson Nano"),
        ("nano-jp46", "Jetson Nano"),
        ("tx1", r"JetPack of the Jetson TX1 is 4.*Python 3\.6.*Use an Orin"),
        ("tx2", r"Jetson TX2 \(Pascal, .* no int8 .*Use an Orin module"),
        ("tx2-nx", "Jetson TX2"),
        ("jetson-tx2-jp46", "Jetson TX2"),
        ("xavier-jp46", r"JetPack 4 \(L4T 32\) has Python 3\.6.*Move a Xavier to JetPack 5\.1 \(xavier-jp51\)"),
        ("jetpack-4.6", "JetPack 4"),
        ("jp4", "JetPack 4"),
    ],
)
def test_devices_that_cannot_be_served_are_refused_with_the_reason_and_the_alternative(name: str, said: str) -> None:
    with pytest.raises(TargetError, match=rf"^{name} is not supported: .*{said}"):
        find_target(name)


@pytest.mark.parametrize("name", ["orin-nano", "nanopi", "tx22", "orin-jp40x"])
def test_names_that_only_look_like_those_are_merely_unknown(name: str) -> None:
    with pytest.raises(TargetError, match=f"no target '{name}'"):
        find_target(name)


def test_a_refusal_names_targets_that_there_are() -> None:
    names = set(re.findall(r"\b(?:orin|xavier)-jp\d+", REFUSED.read_text()))
    assert names
    for name in names:
        find_target(name)


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(CPU)
    target = find_target(str(tmp_path / "gateway.toml"))
    assert target.name == "gateway"
    (tmp_path / "named.toml").write_text('name = "line-3"\n' + CPU)
    assert find_target(str(tmp_path / "named.toml")).name == "line-3"


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(TargetError, match=r"no target 'cpuu'\. Did you mean cpu\?.*or give the path of a TOML file"):
        find_target("cpuu")
    with pytest.raises(TargetError, match=r"no target 'toaster'\. Known: .*jetson \(= orin-jp72\)"):
        find_target("toaster")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(TargetError, match=r"absent\.toml does not exist"):
        find_target("absent.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("platform = ", "is not valid TOML", id="TOML"),
        pytest.param(CPU + "\nruntme = 'x'\n", r"runtme: unknown key\. Did you mean runtime\?", id="key"),
        pytest.param(CPU.replace("base_image", "# base_image"), "base_image is missing", id="missing"),
        pytest.param(
            CPU.replace("linux/amd64", "windows"),
            "platform = 'windows': Input should be 'linux/amd64' or",
            id="platform",
        ),
        pytest.param(
            CPU.replace('"int8"', '"int4"'),
            r"precisions\.1 = 'int4': Input should be 'fp32', 'fp16' or",
            id="precision",
        ),
        pytest.param(
            CPU.replace("= 16", '= "many"'), "channel_multiple = 'many': Input should be a whole number", id="number"
        ),
        pytest.param(
            CPU.replace("= 16", "= 0"), "channel_multiple = 0: Input should be greater than or equal to 1", id="zero"
        ),
        pytest.param(
            CPU.replace('["fp32", "int8"]', '"fp32"'), "precisions = 'fp32': Input should be a list", id="no-list"
        ),
        pytest.param(CPU.replace('runtime = "onnxruntime"', 'runtime = "tensorrt"'), "no table", id="runtime"),
        pytest.param("name = 5\n" + CPU, "name = 5: Input should be a string", id="name"),
        *(
            pytest.param(
                f"name = {name!r}\n" + CPU, r"name = .* has another form\. .*such as line-3", id=f"name {name}"
            )
            for name in ("../../../victim", "/tmp/victim", "a/b", "..", ".hidden", "a b", "", "a" * 65, "-x", "é")
        ),
        pytest.param('name = "a\\u0000b"\n' + CPU, "name = .* has another form", id="name with a zero"),
        pytest.param('name = "a\\n"\n' + CPU, "name = .* has another form", id="name with a newline"),
        pytest.param(CPU.replace('["fp32", "int8"]', "[]"), r"precisions = \[\] is empty", id="no precision"),
        pytest.param(
            CPU.replace('["fp32", "int8"]', '["int8", "int8"]'), "contains a duplicate", id="a precision twice"
        ),
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
