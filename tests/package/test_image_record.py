from dataclasses import replace
from pathlib import Path

import pytest
from tiny_package import Packaged

from pipeline.artifacts import Image, Place
from pipeline.errors import EngineMissing, WorkspaceError
from pipeline.package.image_record import FILE, is_present, read_image, write_image

IMAGE = Image(tag="x:1-cpu", id="sha256:00", bytes=3, platform="linux/amd64")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_image(tmp_path, IMAGE)
    assert read_image(tmp_path) == IMAGE


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="missing"),
        pytest.param("{", id="cut-short"),
        pytest.param("[]", id="no-object"),
        pytest.param('{"tag": "x"}', id="incomplete"),
    ],
)
def test_damaged_facts_name_the_file_and_the_cure(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(WorkspaceError, match=rf"{tmp_path / FILE} cannot be read.*Remove {tmp_path} and run again"):
        read_image(tmp_path)


@pytest.mark.docker
def test_an_image_is_present_only_under_its_tag_with_its_id(packaged: Packaged) -> None:
    assert is_present(packaged.image)
    assert not is_present(replace(packaged.image, id="sha256:" + "0" * 64))
    assert not is_present(replace(packaged.image, tag="edge-deploy-test-absent:1-cpu"))


def test_without_an_engine_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with pytest.raises(EngineMissing, match="no Docker engine answers at DOCKER_HOST=tcp"):
        is_present(IMAGE)


def test_where_an_image_was_proven_is_remembered(tmp_path: Path) -> None:
    write_image(tmp_path, replace(IMAGE, place=Place.EMULATED))
    assert read_image(tmp_path).place is Place.EMULATED
