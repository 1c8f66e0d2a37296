"""Targets that nothing is compiled for yet are refused by one sentence, wherever a build could begin."""

from pathlib import Path

import pytest
from tiny_trained import digits

from pipeline.commands.build import FOR_ANY_TARGET, prepare
from pipeline.compile import check_host
from pipeline.errors import TargetError
from pipeline.options import Request
from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.steps import Steps
from pipeline.workspace import Folder, Workspace
from targets.base import Target, catalogue, find_target
from targets.buildable import BUILT, check_buildable
from targets.runtimes import RUNTIMES

SAID = (
    r"orin-jp72 needs a TensorRT engine, and this version builds none yet.*deploy export --target orin-jp72.*cpu-arm64"
)
BUILT_FOR = [target for target in catalogue() if target.runtime in BUILT]


def test_what_is_said_to_be_built_has_a_runtime_and_tensorrt_is_not_said_to_be() -> None:
    assert set(BUILT) < set(RUNTIMES)


@pytest.mark.parametrize("target", catalogue(), ids=lambda target: target.name)
def test_a_target_is_built_for_or_refused_with_what_can_be_done(target: Target) -> None:
    if target in BUILT_FOR:
        check_buildable(target)
        return
    with pytest.raises(TargetError, match=f"deploy targets show {target.name}") as caught:
        check_buildable(target)
    alternative = find_target(str(caught.value).removesuffix(".").split()[-1])
    assert alternative in BUILT_FOR
    assert alternative.platform == target.platform


def request(tmp_path: Path, *names: str) -> Request:
    return Request(
        recipe_file=None, flags={"targets": names}, workspace=tmp_path / "ws", as_json=False, is_verbose=False
    )


@pytest.mark.parametrize("until", [None, "compile", "package"])
def test_a_build_is_refused_before_data_and_workspace_are_touched(tmp_path: Path, until: str | None) -> None:
    with pytest.raises(TargetError, match=SAID), prepare(request(tmp_path, "cpu", "jetson"), until=until):
        pass
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize("until", FOR_ANY_TARGET)
def test_stages_before_compiling_are_done_for_any_target(tmp_path: Path, until: str) -> None:
    with prepare(request(tmp_path, "jetson", "orin-jp72", "cpu"), until=until) as prepared:
        # The alias is no second target.
        assert [target.name for target in prepared.targets] == ["orin-jp72", "cpu"]


def test_the_compile_stage_refuses_too(tmp_path: Path) -> None:
    target = find_target("jetson")
    with pytest.raises(TargetError, match=SAID):
        check_host(target)
    steps = Steps(recipe=Recipe(), target=target, dataset=digits(), workspace=Workspace(tmp_path), progress=Silent())
    folder = Folder(path=tmp_path, digest="0", seconds=0.0, was_cached=True)
    with pytest.raises(TargetError, match=SAID):
        steps.compile(folder, folder, folder)
