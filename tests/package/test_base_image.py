"""Base images: named by the target or the user, here or pulled, able to carry ours or refused with the cure."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from dockerfiles import build, write_dockerfile
from images_of_tests import own_target

from pipeline.cli.console import Plain
from pipeline.containers.container import output_of
from pipeline.containers.engine import Engine
from pipeline.errors import PackageError, TargetError
from pipeline.package.base_image import OWN, OWN_OF, QUESTION, find_base, hint
from pipeline.progress import Silent
from targets.base_images import BaseImage, known_bases, look_up_base, tensorrt_for
from targets.target import catalogue, find_target

CPU = find_target("cpu")
WITHOUT_VENV = """RUN ["python3", "-c", "import ensurepip, shutil; shutil.rmtree(ensurepip.__path__[0])"]"""
# In front of the image's own python3 comes one that says something else.
SAYING = ("COPY python3 /fake/", "RUN chmod +x /fake/python3", "ENV PATH=/fake:/usr/bin:/bin")


def test_every_target_of_the_catalogue_has_a_base_image_of_its_platform() -> None:
    for target in catalogue():
        base = look_up_base(target, None)
        assert base is not None
        assert base.platform == target.platform


def test_the_base_image_the_script_makes_is_known() -> None:
    assert OWN in {base.tag for base in known_bases().values()}


def test_a_base_image_of_the_user_is_known_only_by_tag_and_platform() -> None:
    stated = look_up_base(CPU, OWN)
    assert stated == BaseImage(tag=OWN, platform="linux/amd64", python="3.11")
    assert look_up_base(CPU, "python:3.9") is None
    assert look_up_base(replace(CPU, platform="linux/arm64"), OWN) is None


def test_a_target_with_an_unknown_base_image_names_those_there_are() -> None:
    with pytest.raises(
        TargetError,
        match=r"cpu names the base image 'gone', which docker/images.toml does not define\. Known: python-amd64, ",
    ):
        look_up_base(replace(CPU, base_image="gone"), None)


@pytest.mark.docker
def test_an_image_is_asked_for_its_python(engine: Engine, base_image: str) -> None:
    found = find_base(engine, own_target(engine), base_image, progress=Silent())
    code = "import sys; print('{}.{}'.format(*sys.version_info))"
    assert found.python == output_of(engine, base_image, ["python3", "-c", code]).strip()
    assert (found.tag, found.platform) == (base_image, engine.platform)


@pytest.mark.docker
def test_a_python_that_is_not_the_stated_one_is_believed(
    engine: Engine, base_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = find_base(engine, own_target(engine), base_image, progress=Silent()).python
    false = BaseImage(tag=base_image, platform=engine.platform, python="2.7")
    monkeypatch.setattr("targets.base_images.known_bases", lambda: {"false": false})
    assert find_base(engine, own_target(engine), base_image, progress=Silent()).python == asked


@pytest.mark.docker
def test_an_image_of_another_platform_is_refused(engine: Engine, base_image: str) -> None:
    ours = own_target(engine)
    other = replace(ours, platform="linux/amd64" if ours.platform == "linux/arm64" else "linux/arm64")
    with pytest.raises(
        PackageError, match=rf"is for {ours.platform}, the target cpu for {other.platform}.*--base-image"
    ):
        find_base(engine, other, base_image, progress=Silent())


@pytest.mark.docker
@pytest.mark.parametrize("tag", ["127.0.0.1:1/absent:1", "Not An Image"])
def test_an_image_that_is_nowhere_names_the_reason_and_both_cures(engine: Engine, tag: str) -> None:
    with pytest.raises(
        PackageError, match=r"is not on this machine and cannot be pulled: .*--base-image.*base_image\.sh"
    ) as caught:
        find_base(engine, own_target(engine), tag, progress=Silent())
    assert "connection refused" in str(caught.value) or "invalid reference" in str(caught.value)


@pytest.mark.docker
@pytest.mark.parametrize(
    ("lines", "says", "message"),
    [
        pytest.param([WITHOUT_VENV], "", r"without venv \(Debian: python3-venv\)", id="no-venv"),
        pytest.param(["ENV PATH=/nowhere"], "", "cannot be used: .*python3", id="no-python"),
        pytest.param(SAYING, "5", "gives no usable answer", id="no-list"),
        pytest.param(SAYING, "hello", "gives no usable answer", id="no-json"),
        pytest.param(SAYING, '["PyPy", [3, 11], true]', "has PyPy; CPython is needed", id="no-cpython"),
    ],
)
def test_an_image_that_cannot_carry_the_model_is_refused_with_the_cure(
    engine: Engine, base_image: str, image_name: str, tmp_path: Path, lines: Sequence[str], says: str, message: str
) -> None:
    (tmp_path / "python3").write_text(f"#!/bin/sh\necho '{says}'\n")
    engine.tag(build(engine, write_dockerfile(tmp_path, base_image, image_name, *lines)), f"{image_name}:1")
    with pytest.raises(PackageError, match=message) as caught:
        find_base(engine, own_target(engine), f"{image_name}:1", progress=Silent())
    assert "Give a local image with --base-image" in str(caught.value)


def test_the_question_can_be_asked_of_any_python_3() -> None:
    compile(QUESTION, "question", "exec", dont_inherit=True)


@pytest.mark.docker
def test_where_no_registry_answers_a_known_base_that_is_here_is_taken_and_named(
    engine: Engine, base_image: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = BaseImage(tag="127.0.0.1:1/absent:1", platform=engine.platform, python="3.12")
    here = BaseImage(tag=base_image, platform=engine.platform, python="3.12")
    target = own_target(engine)
    monkeypatch.setattr("targets.base_images.known_bases", lambda: {target.base_image: absent, "another": here})
    found = find_base(engine, target, None, progress=Plain(is_verbose=False))
    assert found.tag == base_image
    assert (
        f"127.0.0.1:1/absent:1 cannot be pulled; building on the local image {base_image}" in capsys.readouterr().err
    )
    with pytest.raises(PackageError, match="cannot be pulled"):
        find_base(engine, target, absent.tag, progress=Silent())


@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm64"])
def test_each_platform_names_the_base_image_that_the_script_makes_for_it(platform: str) -> None:
    assert (OWN_OF[platform], platform) in {(base.tag, base.platform) for base in known_bases().values()}
    target = next(each for each in catalogue() if each.platform == platform and each.gpu is None)
    assert OWN_OF[platform] in hint(target)
    assert f"scripts/base_image.sh {platform.removeprefix('linux/')} and" in hint(target)


def test_a_target_with_a_gpu_is_told_of_a_base_image_with_its_tensorrt() -> None:
    assert "TensorRT 10.16.2.10" in hint(find_target("jetson"))
    assert tensorrt_for(find_target("jetson"), None) == "10.16.0.72"
    assert tensorrt_for(find_target("jetson"), "my-own:1") == "10.16.2.10"
    assert tensorrt_for(find_target("jetson"), OWN_OF["linux/arm64"]) == "10.16.2.10"
    assert tensorrt_for(find_target("cpu"), None) == ""


def test_base_images_with_tensorrt_are_those_of_the_gpus() -> None:
    stated = {base.tag for target in catalogue() if target.gpu and (base := look_up_base(target, None))}
    assert stated == {base.tag for base in known_bases().values() if base.tensorrt}


@pytest.mark.docker
def test_a_base_image_with_tensorrt_stands_in_for_no_plain_one(
    engine: Engine, base_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = BaseImage(tag="127.0.0.1:1/absent:1", platform=engine.platform, python="3.12")
    large = BaseImage(tag=base_image, platform=engine.platform, python="3.12", tensorrt="10.3.0")
    target = own_target(engine)
    monkeypatch.setattr("targets.base_images.known_bases", lambda: {target.base_image: absent, "another": large})
    with pytest.raises(PackageError, match="cannot be pulled"):
        find_base(engine, target, None, progress=Silent())


@pytest.mark.docker
def test_the_base_of_a_gpu_is_never_replaced(engine: Engine, base_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = BaseImage(tag="127.0.0.1:1/absent:1", platform=engine.platform, python="3.12", tensorrt="10.3.0")
    here = BaseImage(tag=base_image, platform=engine.platform, python="3.12")
    target = replace(find_target("jetson"), platform=own_target(engine).platform)
    monkeypatch.setattr("targets.base_images.known_bases", lambda: {target.base_image: absent, "another": here})
    with pytest.raises(PackageError, match="cannot be pulled"):
        find_base(engine, target, None, progress=Silent())


def test_an_engine_can_hold_the_base_images_of_all_platforms_at_once() -> None:
    tags = [base.tag for base in known_bases().values()]
    assert len(tags) == len(set(tags))
