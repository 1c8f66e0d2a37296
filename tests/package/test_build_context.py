"""The build context: the same bytes for the same input, and nothing of the machine it was written on."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from context_base import BASE
from tiny_package import TinyPackage, write_tiny_package

import targets
from pipeline.containers.engine import FIXED_TIME
from pipeline.package.build_context import DEVICE, DOCKERFILES, MODEL, Environment, build_command, write_context
from targets.device.gate.report import read_proof
from targets.device.model.manifest import read_manifest
from targets.device.model.seal import FILE
from targets.device.model.variant import FOLDER
from targets.shipped import shipped

NAMES = ("manifest.json", "model.onnx", "golden.npz")
LABELS = {"z.last": "1", "a.first": "2"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyPackage:
    return write_tiny_package(tmp_path_factory.mktemp("tiny") / "artifact")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for name in ("one", "two"):
        (folder / f"{name}-1.0-py3-none-any.whl").write_bytes(name.encode())
    (folder / "stray.txt").write_text("no wheel")
    return folder


def written(folder: Path, tiny: TinyPackage, wheels: Path, labels: dict[str, str] = LABELS) -> Path:
    write_context(
        folder,
        artifact=tiny.folder,
        report=tiny.report,
        environment=Environment(base=BASE, wheels=wheels, lock=shipped("locks") / "linux-amd64-cp311.txt"),
        labels=labels,
    )
    return folder


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Bytes, mode and time of everything in it, folders included."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        state = path.stat()
        data = path.read_bytes() if path.is_file() else b""
        found[path.relative_to(folder).as_posix()] = (data, state.st_mode, int(state.st_mtime))
    return found


def test_the_same_input_gives_the_same_bytes_modes_and_times(tiny: TinyPackage, wheels: Path, tmp_path: Path) -> None:
    one = written(tmp_path / "one", tiny, wheels)
    before = os.umask(0o077)
    try:
        other = written(tmp_path / "another place", tiny, wheels, dict(reversed(LABELS.items())))
    finally:
        os.umask(before)
    assert contents(one) == contents(other)
    assert {time for _, _, time in contents(one).values()} == {FIXED_TIME}


def test_an_earlier_context_leaves_nothing_behind(tiny: TinyPackage, wheels: Path, tmp_path: Path) -> None:
    fresh = contents(written(tmp_path / "fresh", tiny, wheels))
    (tmp_path / "used" / "model").mkdir(parents=True)
    (tmp_path / "used" / "model" / "secret").write_text("of another build")
    assert contents(written(tmp_path / "used", tiny, wheels)) == fresh


def test_a_variant_lies_beside_its_model(tiny: TinyPackage, wheels: Path, tmp_path: Path) -> None:
    safe = write_tiny_package(tmp_path / "safe")
    plain = contents(written(tmp_path / "plain", tiny, wheels))
    lock = shipped("locks") / "linux-amd64-cp311.txt"
    write_context(
        tmp_path / "both",
        artifact=tiny.folder,
        report=tiny.report,
        environment=Environment(base=BASE, wheels=wheels, lock=lock),
        labels=LABELS,
        beside={FOLDER: (safe.folder, safe.report)},
    )
    both = contents(tmp_path / "both")
    added = f"{MODEL}/saturation_safe"
    names = ("report.json", FILE, *NAMES)
    assert both.keys() - plain.keys() == {added, *(f"{added}/{name}" for name in names)}
    sealed = {"Dockerfile", f"{MODEL}/{FILE}"}
    assert {name: both[name] for name in plain.keys() - sealed} == {
        name: plain[name] for name in plain.keys() - sealed
    }
    assert all(both[name] != plain[name] for name in sealed)
    for name in NAMES:
        assert both[f"{added}/{name}"][0] == (safe.folder / name).read_bytes()


def test_the_context_holds_no_path_of_this_machine(tiny: TinyPackage, wheels: Path, tmp_path: Path) -> None:
    context = written(tmp_path / "context", tiny, wheels)
    marks = [str(tmp_path), str(Path.home()), str(Path(targets.__path__[0]).parent), str(tiny.folder), os.sep + "tmp/"]
    for path in context.rglob("*"):
        assert not [mark for mark in marks if path.is_file() and mark.encode() in path.read_bytes()], path


def test_it_holds_what_the_image_is_made_of_and_no_more(tiny: TinyPackage, wheels: Path, tmp_path: Path) -> None:
    context = written(tmp_path / "context", tiny, wheels)
    files = {path.relative_to(context).as_posix() for path in context.rglob("*") if path.is_file()}
    package = Path(targets.__path__[0], "device")
    code = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    of_tensorrt = {name for name in code if name.startswith(("tensorrt/", "nvidia/"))} | {"sensors/nvml.py"}
    device = {f"{DEVICE}/targets/device/{name}" for name in code - of_tensorrt}
    assert files == device | {
        f"{DEVICE}/targets/device/server/status.html",
        "Dockerfile",
        "install.py",
        "surplus.txt",
        "wheels/one-1.0-py3-none-any.whl",
        "wheels/two-1.0-py3-none-any.whl",
        "wheels/requirements.txt",
        f"{DEVICE}/targets/__init__.py",
        f"{MODEL}/manifest.json",
        f"{MODEL}/model.onnx",
        f"{MODEL}/golden.npz",
        f"{MODEL}/report.json",
        f"{MODEL}/{FILE}",
    }
    assert (context / MODEL / "model.onnx").read_bytes() == (tiny.folder / "model.onnx").read_bytes()


def test_the_device_reads_the_very_report(tiny: TinyPackage, wheels: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "context", tiny, wheels) / MODEL
    proof = read_proof(folder, read_manifest(folder))
    assert proof is not None
    assert {field: getattr(tiny.report, field) for field in asdict(proof)} == asdict(proof)


def test_the_image_says_the_how_manieth_artifact_it_is_that_the_gate_judged(
    tiny: TinyPackage, wheels: Path, tmp_path: Path
) -> None:
    again = replace(tiny, report=replace(tiny.report, gate_looks=7))
    folder = written(tmp_path / "a", again, wheels) / MODEL
    proof = read_proof(folder, read_manifest(folder))
    assert proof is not None
    assert proof.gate_looks == 7


def test_the_dockerfile_names_its_base_and_ends_in_sorted_labels(
    tiny: TinyPackage, wheels: Path, tmp_path: Path
) -> None:
    context = written(tmp_path / "context", tiny, wheels)
    text = (context / "Dockerfile").read_text()
    seal = json.loads((context / MODEL / FILE).read_text())["seal"]
    assert "\nARG BASE=some-base:1\n" in text
    labels = f'LABEL a.first="2" dev.edge-deploy.seal="{seal}" z.last="1"'
    assert text.endswith(f"COPY model /\nENV MODEL_SEAL={seal}\n{labels}\n")


@pytest.mark.parametrize("grpc", [False, True])
def test_an_image_listens_for_grpc_where_it_has_it(
    tiny: TinyPackage, wheels: Path, tmp_path: Path, grpc: bool
) -> None:
    lock = shipped("locks/grpc" if grpc else "locks") / "linux-amd64-cp311.txt"
    write_context(
        tmp_path / "c",
        artifact=tiny.folder,
        report=tiny.report,
        environment=Environment(base=BASE, wheels=wheels, lock=lock, grpc=grpc),
        labels={},
    )
    text = (tmp_path / "c" / "Dockerfile").read_text()
    assert ("\nEXPOSE 8000 8001\n" in text) is grpc
    assert ("\nEXPOSE 8000\n" in text) is not grpc
    assert ("    PORT=8000 \\\n    GRPC_PORT=8001\nUSER" in text) is grpc


def test_a_labels_value_is_meant_word_for_word(tiny: TinyPackage, wheels: Path, tmp_path: Path) -> None:
    context = written(tmp_path / "context", tiny, wheels, {"said": 'a "quoted" $HOME \\ naïve'})
    assert (context / "Dockerfile").read_text().endswith(' said="a \\"quoted\\" \\$HOME \\\\ naïve"\n')


@pytest.mark.parametrize("name", DOCKERFILES.values())
def test_layers_come_in_the_order_of_how_rarely_they_change(name: str) -> None:
    text = shipped(name).read_text()
    final = text[text.rindex("\nFROM ") :]
    packages = "COPY packages /" if "tensorrt" in name else "COPY --from=dependencies"
    places = [final.index(line) for line in (packages, "COPY device", "USER 10001", "COPY model")]
    assert places == sorted(places)
    assert final.rstrip().endswith("COPY model /")


def test_the_command_builds_without_a_network() -> None:
    assert build_command(Path("/ws/x"), "x:1-cpu") == "docker build --network none --tag x:1-cpu /ws/x"
    assert build_command(Path("/my ws/x"), "x:1-cpu").endswith(" '/my ws/x'")
