"""One hash ties manifest, report, golden images and model: a byte that flips anywhere in them refuses to serve."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from context_base import BASE
from deployed_container import port_of
from device_server import answer_of, answering, device, serving, start, until
from faults import eventually
from tiny_package import Packaged, TinyPackage, write_tiny_package
from tiny_tensorrt import write_tiny_model

from pipeline.containers.container import MODEL_FOLDER, OWNER, PORT, RIGHTS, owner, remove
from pipeline.containers.engine import Engine
from pipeline.package.build_context import MODEL, Environment, write_context
from pipeline.package.labels import SEAL
from targets.device.model.manifest import ManifestError
from targets.device.model.seal import FILE, VARIABLE, SealError, check_seal, write_seal
from targets.device.model.variant import FOLDER, choose
from targets.device.server.service import Service
from targets.shipped import shipped

FIGURES = ("manifest.json", "report.json", "golden.npz", FILE)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyPackage:
    return write_tiny_package(tmp_path_factory.mktemp("tiny") / "artifact")


@pytest.fixture(scope="module")
def context(tiny: TinyPackage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build context of an image with a saturation-safe variant."""
    root = tmp_path_factory.mktemp("sealed")
    safe = write_tiny_package(root / "safe")
    (root / "wheels").mkdir()
    write_context(
        root / "context",
        artifact=tiny.folder,
        report=tiny.report,
        environment=Environment(base=BASE, wheels=root / "wheels", lock=shipped("locks") / "linux-amd64-cp311.txt"),
        labels={},
        beside={FOLDER: (safe.folder, safe.report)},
    )
    return root / "context"


@pytest.fixture
def model(context: Path, tmp_path: Path) -> Path:
    """A model folder as an image has it, to be spoiled."""
    return shutil.copytree(context / MODEL, tmp_path / "model")


@pytest.fixture(scope="module")
def tensorrt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of TensorRT, with shard, terms and the fp16 fallback."""
    folder = tmp_path_factory.mktemp("tensorrt") / "model"
    write_tiny_model(folder, fallback="fp16", count=40)
    write_seal(folder / "fp16")
    write_seal(folder)
    return folder


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flips(file: Path, *, at_most: int = 200) -> Iterator[int]:
    """Write the file with one bit of one byte flipped, everywhere or at places spread over it; put it right again."""
    whole = file.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // at_most)):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        file.write_bytes(changed)
        yield place
    file.write_bytes(whole)


def test_a_sealed_folder_is_served_and_one_that_was_never_packaged_too(model: Path, tiny: TinyPackage) -> None:
    check_seal(model)
    check_seal(model / FOLDER)
    with answering(model) as client:
        assert client.get("/v2/health/ready").status_code == 200
        assert client.get("/proof").json()["state"] == "proven"
    assert not (tiny.folder / FILE).exists()
    assert choose(tiny.folder).manifest == tiny.manifest


@pytest.mark.slow
def test_every_flipped_byte_of_every_file_is_found(model: Path) -> None:
    names = {path.relative_to(model).as_posix() for path in files_of(model)}
    assert names >= {*FIGURES, "model.onnx", *(f"{FOLDER}/{name}" for name in FIGURES)}
    for file in files_of(model):
        for place in flips(file):
            with pytest.raises(ManifestError) as found:
                choose(model)
            assert isinstance(found.value, SealError), (file, place)
    choose(model)


def test_every_flipped_byte_of_what_a_first_start_needs_is_found(tensorrt: Path) -> None:
    names = {path.relative_to(tensorrt).as_posix() for path in files_of(tensorrt)}
    assert names >= {"shard.zip", "first_start.json", "fp16/manifest.json", "fp16/golden.npz", "fp16/report.json"}
    for file in files_of(tensorrt):
        for place in flips(file, at_most=50):
            with pytest.raises(SealError):
                choose(tensorrt)
            assert place >= 0
    choose(tensorrt)


def test_files_that_are_missing_or_added_are_found(model: Path) -> None:
    for file in files_of(model):
        if file == model / FILE:
            continue
        whole = file.read_bytes()
        file.unlink()
        with pytest.raises(SealError, match="is missing"):
            choose(model)
        file.write_bytes(whole)
    (model / "shard.zip").write_bytes(b"of another model")
    with pytest.raises(SealError, match=r"shard\.zip was not packaged"):
        choose(model)


def test_the_seal_is_the_one_that_the_image_states(model: Path) -> None:
    stated = json.loads((model / FILE).read_text())["seal"]
    check_seal(model, stated)
    report = json.loads((model / "report.json").read_text())
    (model / "report.json").write_text(json.dumps({**report, "artifact_top1": 1.0}))
    write_seal(model)
    check_seal(model)
    with pytest.raises(SealError, match="the image expects"):
        check_seal(model, stated)
    (model / FILE).unlink()
    with pytest.raises(SealError, match=f"is missing, although the image has its hash .{VARIABLE}"):
        check_seal(model, stated)


@pytest.mark.parametrize("name", FIGURES)
def test_a_server_of_a_spoiled_folder_is_unready_with_the_reason(model: Path, name: str, tmp_path: Path) -> None:
    """In the process as it is started in a container."""
    whole = (model / name).read_bytes()
    (model / name).write_bytes(whole.replace(b"0", b"1", 1) if name.endswith("json") else whole[:-1] + b"x")
    running = start(model, tmp_path / "log")
    try:
        until(lambda: "the model cannot be served" in running.log.read_text(), running)
        status, told = running.ask(b"GET /v2/health/ready HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (status, name in told["error"]) == (503, True)
        _, proof = running.ask(b"GET /proof HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (proof["state"], proof["report"]) == ("failed", None)
        assert name in proof["reason"]
        status, _ = running.ask(b"GET /v2/models/tiny HTTP/1.1\r\nHost: test\r\n\r\n")
        assert status == 503
    finally:
        running.process.kill()
        running.process.wait()


@pytest.mark.parametrize("command", [("selftest",), ("prove", "OUT"), ("bench", "0.1")])
def test_no_other_command_takes_a_spoiled_folder(model: Path, command: tuple[str, ...], tmp_path: Path) -> None:
    text = (model / "manifest.json").read_text()
    (model / "manifest.json").write_text(text.replace('"a"', '"z"'))
    arguments = [str(tmp_path / "out") if each == "OUT" else each for each in command]
    done = device(*arguments, MODEL_FOLDER=model)
    assert done.returncode != 0
    assert "has changed since it was packaged" in done.stderr


def test_a_service_knows_no_manifest_that_is_not_the_packaged_one(model: Path) -> None:
    (model / "manifest.json").write_text((model / "manifest.json").read_text().replace('"a"', '"z"'))
    service = Service(model)
    try:
        service.loaded(10)
        assert service.manifest is None
        assert service.proof is None
    finally:
        service.close()


def test_the_seal_does_not_hang_on_time_or_place(context: Path, model: Path) -> None:
    before = (context / MODEL / FILE).read_bytes()
    write_seal(model)
    assert (model / FILE).read_bytes() == before
    text = (context / "Dockerfile").read_text()
    seal = json.loads(before)["seal"]
    assert f"\nENV {VARIABLE}={seal}\n" in text
    assert f'{SEAL}="{seal}"' in text


def test_a_whole_server_answers_from_a_sealed_folder(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path / "log") as running:
        assert running.ask(b"GET /v2/health/ready HTTP/1.1\r\nHost: test\r\n\r\n")[0] == 200


SPOILED = {
    "manifest.json": 's/"a"/"z"/',
    "report.json": 's/"drop_points": 0/"drop_points": 1/',
    "golden.npz": "1s/^P/Q/",
    FILE: 's/"schema": 1/"schema":  1/',
    "removed": "",
}


@pytest.mark.docker
@pytest.mark.parametrize("name", SPOILED)
def test_a_container_whose_files_were_changed_is_unready(
    engine: Engine, packaged: Packaged, name: str, tmp_path: Path
) -> None:
    """The image's own layer, with one file of it changed as a bad disk would; without its seal it refuses as well."""
    found = engine.client.images.get(packaged.image.id)
    seal = found.labels[SEAL]
    assert f"{VARIABLE}={seal}" in found.attrs["Config"]["Env"]
    spoil = f"rm {MODEL_FOLDER}/{FILE}" if name == "removed" else f"sed -i '{SPOILED[name]}' {MODEL_FOLDER}/{name}"
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {packaged.image.id}\nUSER 0\nRUN {spoil}\nUSER 10001:10001\n")
    spoiled = str(engine.client.images.build(path=str(context), network_mode="none", rm=True)[0].id)
    container_name = f"edge-deploy-test-{name.partition('.')[0]}-{tmp_path.name[-6:]}".lower().strip("-")
    try:
        given = {**RIGHTS, "ports": {PORT: ("127.0.0.1", None)}, "mem_limit": "512m"}
        container = engine.client.containers.create(spoiled, name=container_name, labels={OWNER: owner()}, **given)
        container.start()
        assert eventually(lambda: b"the model cannot be served" in container.logs(), 60)
        answers = _answers(port_of(container))
        assert answers[0][0] == 503
        assert ("seal.json" if name == "removed" else name) in str(answers[0][1]["error"])
        assert answers[1][1]["state"] == "failed"
    finally:
        remove(engine, container_name)
        engine.client.images.remove(spoiled)


def _answers(port: int) -> list[tuple[int, dict[str, object]]]:
    found = []
    for path in ("/v2/health/ready", "/proof"):
        with socket.create_connection(("127.0.0.1", port), 30) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            found.append(answer_of(client))
    return found


def test_a_seal_can_be_made_again_with_common_tools(model: Path) -> None:
    """So that whoever has no Python can check an image: hashes as of `sha256sum`, in the order of the names."""
    raw = json.loads((model / FILE).read_text())
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(raw["files"].items()))
    done = subprocess.run(["sha256sum", "--check", "--strict", "--quiet"], input=lines, cwd=model, text=True)
    assert done.returncode == 0
