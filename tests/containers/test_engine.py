"""The Docker engine: what it builds, what it leaves behind, and what is said when it cannot be asked."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from docker_proxy import Proxy
from dockerfiles import build, write_dockerfile
from repository import REPOSITORY

from pipeline.containers import engine as module
from pipeline.containers.engine import Engine, build_failure, connect, why_missing
from pipeline.errors import EngineMissing, PackageError
from pipeline.package.labels import OPEN_CONTAINER
from pipeline.progress import Silent


def images(engine: Engine) -> set[str]:
    return {str(image.id) for image in engine.client.images.list(all=True)}


def titled(engine: Engine, name: str) -> set[str]:
    found = engine.client.images.list(all=True, filters={"label": f"{OPEN_CONTAINER}title={name}"})
    return {str(image.id) for image in found}


@pytest.mark.docker
def test_the_image_is_the_last_of_the_dockerfiles_stages(
    engine: Engine, base_image: str, image_name: str, tmp_path: Path
) -> None:
    folder = write_dockerfile(
        tmp_path,
        base_image,
        image_name,
        f"FROM {base_image}",
        f'LABEL {OPEN_CONTAINER}title="{image_name}"',
        "ENV IS_LAST=1",
    )
    built = build(engine, folder)
    assert "IS_LAST=1" in engine.client.images.get(built).attrs["Config"]["Env"]
    assert engine.bytes_of(built) > 0


@pytest.mark.docker
def test_the_first_stage_is_kept_under_a_name_and_not_as_an_untagged_image(
    engine: Engine, base_image: str, image_name: str, tmp_path: Path
) -> None:
    folder = write_dockerfile(
        tmp_path,
        base_image,
        image_name,
        "ENV IS_STAGE=1",
        f"FROM {base_image}",
        f'LABEL {OPEN_CONTAINER}title="{image_name}"',
    )
    tag = f"{image_name}:stage"
    built = engine.build(folder, labels={}, platform=engine.platform, progress=Silent(), stage_tag=tag)
    kept = engine.client.images.get(tag)
    assert "IS_STAGE=1" in kept.attrs["Config"]["Env"]
    untagged = {str(image.id) for image in engine.client.images.list(filters={"dangling": True})}
    assert str(kept.id) not in untagged
    assert built != kept.id


@pytest.mark.docker
def test_files_belong_to_root_and_have_the_fixed_time_whoever_owns_them_here(
    engine: Engine, base_image: str, image_name: str, tmp_path: Path
) -> None:
    folder = write_dockerfile(tmp_path, base_image, image_name, "COPY file /", "RUN stat -c '%u %g %a %Y' /file")
    (folder / "file").write_text("")
    (folder / "file").chmod(0o600)
    lines: list[str] = []

    class Heard(Silent):
        def detail(self, text: str) -> None:
            lines.append(text)

    engine.build(folder, labels={"one": "more"}, platform=engine.platform, progress=Heard())
    assert f"0 0 644 {module.FIXED_TIME}" in lines


@pytest.mark.docker
def test_a_build_has_no_network(engine: Engine, base_image: str, image_name: str, tmp_path: Path) -> None:
    command = "import socket; print('devices', [name for _, name in socket.if_nameindex()])"
    folder = write_dockerfile(
        tmp_path, base_image, image_name, f'RUN ["python3", "-c", "{command}; raise SystemExit(1)"]'
    )
    with pytest.raises(PackageError, match=r"(?s)could not be built.*returned a non-zero code: 1.*devices \['lo'\]"):
        build(engine, folder)


@pytest.mark.docker
def test_a_build_that_fails_leaves_no_image(engine: Engine, base_image: str, image_name: str, tmp_path: Path) -> None:
    folder = write_dockerfile(
        tmp_path, base_image, image_name, "ENV A=1", 'RUN ["python3", "-c", "raise SystemExit(3)"]'
    )
    with pytest.raises(PackageError, match="non-zero code: 3"):
        build(engine, folder)
    assert titled(engine, image_name) == set()


@pytest.mark.docker
def test_a_tag_moves_to_the_new_image_and_the_old_one_goes(
    engine: Engine, base_image: str, image_name: str, tmp_path: Path
) -> None:
    tag = f"{image_name}:1"
    first = build(engine, write_dockerfile(tmp_path, base_image, image_name, "ENV A=1"))
    engine.tag(first, tag)
    second = build(engine, write_dockerfile(tmp_path, base_image, image_name, "ENV A=2"))
    engine.tag(second, tag)
    assert engine.id_of(tag) == second
    assert engine.id_of(first) is None
    engine.tag(second, tag)
    assert engine.id_of(tag) == second


@pytest.mark.docker
def test_an_image_with_a_tag_is_not_removed_one_without_is(
    engine: Engine, base_image: str, image_name: str, tmp_path: Path
) -> None:
    built = build(engine, write_dockerfile(tmp_path, base_image, image_name, "ENV A=1"))
    engine.tag(built, f"{image_name}:1")
    engine.remove(built)
    assert engine.id_of(built) == built
    engine.untag(f"{image_name}:1")
    assert engine.id_of(built) is None
    engine.remove(built)
    with pytest.raises(PackageError, match="could not remove the image"):
        engine.untag(f"{image_name}:1")


@pytest.mark.docker
@pytest.mark.parametrize("name", ["edge-deploy-test-absent:1", "Foo", "a:b c", "../x", "é", "x@sha256:" + "0" * 64])
def test_an_image_that_is_not_here_or_cannot_be_is_none(engine: Engine, name: str) -> None:
    assert engine.id_of(name) is None
    assert engine.platform_of(name) is None


@pytest.mark.docker
@pytest.mark.parametrize("version", [":1", "", "@sha256:" + "0" * 64])
def test_a_registry_that_does_not_answer_is_quoted(engine: Engine, version: str) -> None:
    with pytest.raises(PackageError, match=r"127.0.0.1:1/v2/.*connection refused"):
        engine.pull(f"127.0.0.1:1/some/base{version}", "linux/amd64", Silent())


@pytest.mark.docker
def test_an_engine_that_goes_away_during_a_build_is_missing(
    engine: Engine, base_image: str, image_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_dockerfile(
        tmp_path, base_image, image_name, 'RUN ["python3", "-c", "print(1); import time; time.sleep(60)"]'
    )
    with Proxy() as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.address)
        through = connect()

        class Leaving(Silent):
            def detail(self, text: str) -> None:
                if text.startswith("Step 3"):
                    proxy.close()

        with pytest.raises(EngineMissing, match="stopped responding when asked to build the image"):
            through.build(folder, labels={}, platform=engine.platform, progress=Leaving())
        through.close()


ASKED: dict[str, Callable[[Engine], object]] = {
    "platform_of": lambda engine: engine.platform_of("x"),
    "id_of": lambda engine: engine.id_of("x"),
    "bytes_of": lambda engine: engine.bytes_of("x"),
    "tag": lambda engine: engine.tag("x", "y:1"),
    "untag": lambda engine: engine.untag("x"),
    "pull": lambda engine: engine.pull("x", "linux/amd64", Silent()),
}


@pytest.mark.docker
@pytest.mark.parametrize("asked", ASKED)
def test_an_engine_that_has_gone_away_is_missing(engine: Engine, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy() as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.address)
        through = connect()
    with pytest.raises(EngineMissing, match="stopped responding"):
        ASKED[asked](through)
    through.remove("x")
    through.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("host", "message"),
    [
        pytest.param(
            "tcp://127.0.0.1:9", "no Docker engine answers at DOCKER_HOST=tcp://127.0.0.1:9: start", id="tcp"
        ),
        pytest.param("unix:///nowhere.sock", "DOCKER_HOST=unix:///nowhere.sock", id="socket"),
        pytest.param("nonsense://x", "correct DOCKER_HOST", id="nonsense"),
    ],
)
def test_no_engine_is_an_error_of_its_own_with_the_cure(
    host: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(EngineMissing, match=message) as caught:
        connect()
    assert caught.value.exit_code == 12
    # The SDK leaves a socket open that it could not connect.
    del caught
    gc.collect()


@pytest.mark.parametrize(
    ("exists", "error", "message"),
    [
        pytest.param(False, "No such file", "Install and start one", id="not-installed"),
        pytest.param(True, "Permission denied", "group docker", id="no-permission"),
        pytest.param(True, "Connection refused", "systemctl start docker", id="not-running"),
    ],
)
def test_the_cure_fits_the_reason(
    exists: bool, error: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(module, "DEFAULT_SOCKET", tmp_path / "docker.sock")
    if exists:
        (tmp_path / "docker.sock").touch()
    assert message in why_missing(error)


def test_a_program_of_another_platform_names_the_emulator() -> None:
    lines = ["Step 4", "standard_init_linux.go:228: exec user process caused: exec format error"]
    assert "qemu-user-static" in build_failure("non-zero code: 1", lines, "linux/arm64")
    assert "qemu" not in build_failure("non-zero code: 1", ["Step 4"], "linux/arm64")


@pytest.mark.slow
@pytest.mark.parametrize("in_ci", [pytest.param(True, id="CI"), pytest.param(False, id="elsewhere")])
def test_tests_without_an_engine_are_skipped_with_the_reason_but_fail_in_ci(in_ci: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment |= {"DOCKER_HOST": "tcp://127.0.0.1:9"} | ({"CI": "true"} if in_ci else {})
    test = "tests/package/test_image_record.py::test_an_image_is_present_only_under_its_tag_with_its_id"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert "no Docker engine answers at DOCKER_HOST=tcp://127.0.0.1:9" in done.stdout
    assert ("1 error" if in_ci else "1 skipped") in done.stdout
    assert done.returncode == (1 if in_ci else 0)
