"""`deploy build` for a GPU that is not here: what is simulated, what is packed, and that nothing is called proven."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from builds import deploy
from device_server import serving
from tiny_cuda import library
from tiny_tensorrt import TESTS, tiny_device

from pipeline.package.build_context import CACHE, DEVICE, MODEL, PACKAGES
from pipeline.report.document import Document, TargetSummary
from targets.device.files import FIRST_START
from targets.device.gate.report import read_proof
from targets.device.gate.shard import Shard
from targets.device.model.manifest import read_manifest
from targets.device.tensorrt.passport import read as read_passport

pytestmark = pytest.mark.slow

__all__ = ["library"]
NO_ENGINE = {"DOCKER_HOST": "tcp://127.0.0.1:1"}
FAST = ("--data", "digits", "--checkpoint", "digits.safetensors", "--qat-epochs", "0", "--max-drop", "5")
RECIPE = """
[package]
fallback = "fp16"
shard_images = 400
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pending")
    deploy("train", "--epochs", "3", "-o", "digits.safetensors", cwd=folder)
    return folder


def build(folder: Path, *arguments: str, code: int = 0) -> tuple[TargetSummary, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "build", *FAST, "--json", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, **NO_ENGINE, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=500,
    )
    assert done.returncode == code, done.stderr
    (target,) = Document.model_validate_json(done.stdout).targets
    return target, done.stderr


@pytest.fixture(scope="module")
def jetson(folder: Path) -> tuple[TargetSummary, str]:
    (folder / "deploy.toml").write_text(RECIPE)
    return build(folder, "--target", "jetson")


@pytest.fixture(scope="module")
def context(folder: Path, jetson: tuple[TargetSummary, str]) -> Path:
    assert jetson[0].context is not None
    return folder / jetson[0].context


def test_nothing_is_called_proven_or_timed(jetson: tuple[TargetSummary, str]) -> None:
    target, said = jetson
    assert (target.target, target.verdict, target.place) == ("orin-jp72", "pass", "simulated")
    assert (target.proof, target.built, target.image) == ("pending", "first-start", None)
    assert target.precision == "int8"
    assert target.reason is not None
    assert "ONNX Runtime" in target.reason
    for name in ("artifact_latency_ms", "float_latency_ms", "latency_ratio", "timed_on", "int8_nodes", "float_nodes"):
        assert getattr(target, name) is None, name
    assert "pending: build context" in said
    assert "no Docker engine answers at DOCKER_HOST=tcp://127.0.0.1:1" in said
    assert "docker build --network none --tag model:0.1.0-orin-jp72" in said
    assert "whose engine is built and proven at its first start" in said


def test_the_context_holds_all_but_base_and_engine(context: Path) -> None:
    model = context / MODEL
    assert {path.name for path in model.iterdir()} == {
        "manifest.json",
        "model.onnx",
        "golden.npz",
        "report.json",
        "shard.zip",
        "seal.json",
        FIRST_START,
        "fp16",
    }
    assert json.loads((model / FIRST_START).read_text()) == {
        "schema": 1,
        "max_drop": 5.0,
        "confidence": 0.95,
        "undecided": "stop",
        "fallback": "fp16",
    }
    manifest = read_manifest(model)
    assert (manifest.runtime, manifest.precision, manifest.runtime_version) == ("tensorrt", "int8", "10.16.0.72")
    proof = read_proof(model, manifest)
    assert proof is not None
    assert (proof.place, proof.verdict) == ("simulated", "pass")
    assert (context / CACHE).is_dir()
    device = context / DEVICE / "targets" / "device"
    for name in ("tensorrt/build.py", "tensorrt/passport.py", "nvidia/machine.py", "serve.py"):
        assert (device / name).is_file()
    packages = {path.name for path in (context / PACKAGES).iterdir()}
    assert {"numpy", "PIL", "httptools", "orjson", "prometheus_client"} <= packages
    assert "onnxruntime" not in packages


def test_packages_are_of_the_targets_platform(context: Path) -> None:
    """This host's own could not be imported there."""
    binaries = list((context / PACKAGES).rglob("*.so"))
    assert binaries
    aarch64 = 183  # e_machine in an ELF file's header
    assert {int.from_bytes(path.read_bytes()[18:20], "little") for path in binaries} == {aarch64}


def test_nothing_is_run_while_the_image_is_built(context: Path) -> None:
    """So that a host of another platform can build it."""
    instructions = [
        line.split()[0] for line in (context / "Dockerfile").read_text().splitlines() if line[:1].isupper()
    ]
    assert "FROM" in instructions
    assert "RUN" not in instructions


def test_the_fallback_is_a_whole_model_of_its_own_with_its_own_report(context: Path) -> None:
    folder = context / MODEL / "fp16"
    manifest = read_manifest(folder)
    assert manifest.precision == "fp16"
    proof = read_proof(folder, manifest)
    assert proof is not None
    assert proof.place == "simulated"
    # TensorRT 10.16 takes its types from the file.
    weights = onnx.load(manifest.model_path(folder)).graph.initializer
    assert {tensor.data_type for tensor in weights} & {onnx.TensorProto.FLOAT16}
    assert not {tensor.data_type for tensor in weights} & {onnx.TensorProto.FLOAT}


def test_as_many_images_travel_as_the_recipe_says_of_every_class(folder: Path, context: Path) -> None:
    (published,) = (folder / ".deploy" / "artifacts").glob("*-orin-jp72")
    with Shard(context / MODEL / "shard.zip") as some, Shard(published / "shard.zip") as whole:
        assert (len(some), len(whole)) == (400, 800)
        shares = np.bincount(some.labels) / np.bincount(whole.labels)
        assert np.all(abs(shares - 0.5) < 0.02)
        assert some.sha256 != whole.sha256
        contents = {whole.encoded(index) for index in range(len(whole))}
        assert {some.encoded(index) for index in range(len(some))} <= contents


def test_a_second_build_does_nothing_again(folder: Path, jetson: tuple[TargetSummary, str], context: Path) -> None:
    before = sorted((folder / ".deploy").glob("*/*/stage.json"))
    again, said = build(folder, "--target", "jetson")
    assert again.context == jetson[0].context
    assert sorted((folder / ".deploy").glob("*/*/stage.json")) == before
    assert "everything was built before" in said


def test_another_tensorrt_gets_another_file(folder: Path, jetson: tuple[TargetSummary, str]) -> None:
    """8.5 reads opset 17 at most; all before it is shared with the other target."""
    target, said = build(folder, "--target", "orin-jp51")
    assert said.count("done before") >= 4
    assert target.context is not None
    manifest = read_manifest(folder / target.context / MODEL)
    assert manifest.runtime_version == "8.5.2"
    opsets = {
        entry.domain: entry.version for entry in onnx.load(folder / target.context / MODEL / "model.onnx").opset_import
    }
    assert opsets[""] == 17
    packages = folder / target.context / PACKAGES
    assert list(packages.rglob("*.cpython-38-aarch64-linux-gnu.so"))
    # What NumPy 1.x imports at once is not taken from it.
    assert (packages / "numpy" / "random").is_dir()


def test_a_dla_gets_what_its_tensorrt_lets_it_run(folder: Path, jetson: tuple[TargetSummary, str]) -> None:
    """Before TensorRT 11 that is fp16: int8 takes its scales from elsewhere than Q/DQ nodes."""
    target, _ = build(folder, "--target", "orin-jp61", "--dla")
    assert target.precision == "fp16"
    assert target.context is not None
    manifest = read_manifest(folder / target.context / MODEL)
    assert manifest.session_options["dla_core"] == 0
    with pytest.raises(AssertionError, match=r"orin-jp72 has no usable DLA: TensorRT 10\.16"):
        build(folder, "--target", "jetson", "--dla")


def test_a_base_image_of_ones_own_needs_an_engine_to_ask(folder: Path) -> None:
    _, said = build(folder, "--target", "jetson", "--base-image", "my-own:1", code=12)
    assert "the Python in my-own:1 is unknown, so no build context was written" in said


def test_what_is_simulated_can_be_measured_again(folder: Path, jetson: tuple[TargetSummary, str]) -> None:
    assert jetson[0].artifact is not None
    done = deploy("validate", jetson[0].artifact, "--max-drop", "5", "--json", cwd=folder)
    report = json.loads(done.stdout)
    assert (report["place"], report["verdict"]) == ("simulated", "pass")
    assert report["artifact_top1"] == jetson[0].artifact_top1


def test_an_engine_is_not_timed_by_what_stands_in_for_it(folder: Path, jetson: tuple[TargetSummary, str]) -> None:
    assert jetson[0].artifact is not None
    done = deploy("bench", jetson[0].artifact, cwd=folder, code=9)
    assert "its engine can only be timed there" in done.stderr


def test_a_plan_shows_that_all_is_done(folder: Path, jetson: tuple[TargetSummary, str]) -> None:
    done = deploy("plan", *FAST, "--target", "jetson", cwd=folder)
    assert "package" in done.stdout + done.stderr


def test_wheels_in_the_context_are_those_of_the_lock(context: Path) -> None:
    versions = {path.name for path in (context / PACKAGES).glob("*.dist-info")}
    assert {name.split("-")[0].lower() for name in versions} >= {"numpy", "pillow", "orjson"}
    assert not [path for path in context.rglob("*.whl") if zipfile.is_zipfile(path)]


def test_what_a_device_proves_of_it_is_collected(
    folder: Path, jetson: tuple[TargetSummary, str], context: Path, library: Path, tmp_path: Path
) -> None:
    """The image's own code on the image's own model, TensorRT and CUDA standing in: pending becomes proven."""
    device = tiny_device(tmp_path / "device", library, version="10.16.2.10")
    modules = tmp_path / "device" / "modules"
    # What lies in the image, and not what lies where the server is started.
    own = {"PYTHONPATH": f"{context / DEVICE}:{modules}:{TESTS}", "PYTHONSAFEPATH": "1"}
    with serving(context / MODEL, tmp_path / "log", **{**device.environment, **own}) as running:
        collected = deploy("collect", f"http://{running.url}", "--name", "orin", "--json", cwd=folder)
        document = json.loads(collected.stdout)
        assert running.stop() == 0
    assert jetson[0].artifact is not None
    kept = folder / jetson[0].artifact / "devices" / "orin"
    assert {"report.json", "predictions.npz", "passport.json", "layers.json"} <= {path.name for path in kept.iterdir()}
    report = json.loads((kept / "report.json").read_text())
    assert (report["place"], report["verdict"], report["images"]) == ("device", "pass", 400)
    assert (report["runtime"], report["instruction_set"]) == ("tensorrt 10.16.2.10", "sm_87")
    assert (document["device"], document["verdict"], document["place"]) == ("orin", "pass", "device")


@pytest.mark.long
def test_where_the_fastest_is_asked_for_every_precision_travels_and_the_device_says_which(
    folder: Path, jetson: tuple[TargetSummary, str], library: Path, tmp_path: Path
) -> None:
    """On a clock that the stand-in sets; fp16 is the fastest by it, and so what makes pending proven."""
    (folder / "fastest.toml").write_text(RECIPE.replace('"fp16"', '"fastest"'))
    target, said = build(folder, "--recipe", "fastest.toml", "--target", "orin-jp61")
    assert target.proof == "pending"
    assert "whose engines (int8, fp16, fp32) are built, proven and timed at its first start" in said
    assert "fp16 rival: pass" in said
    assert "fp32 rival: pass" in said
    assert target.context is not None
    model = folder / target.context / MODEL
    assert json.loads((model / FIRST_START).read_text())["fallback"] == "fastest"
    for precision in ("fp16", "fp32"):
        assert {path.name for path in (model / precision).iterdir()} == {
            "manifest.json", "model.onnx", "golden.npz", "report.json", "seal.json",
        }  # fmt: skip
        manifest = read_manifest(model / precision)
        assert manifest.precision == precision
        proof = read_proof(model / precision, manifest)
        assert proof is not None
        assert proof.verdict == "pass"
    device = tiny_device(tmp_path / "device", library, STAND_IN_SLOW=json.dumps({"int8": 500, "fp32": 1000}))
    text = "fp16: 1.5 ms against 2 ms of int8 and 2.5 ms of fp32, timed in turn on Orin with TensorRT 10.3.0.30."
    with serving(model, tmp_path / "log", **device.environment) as running:
        collected = deploy("collect", f"http://{running.url}", "--name", "orin", cwd=folder)
        assert f"orin: {text}" in collected.stdout
        assert running.stop() == 0
    assert target.artifact is not None
    kept = folder / target.artifact / "devices" / "orin"
    assert json.loads((kept / "comparison.json").read_text())["chosen"] == "fp16"
    # TensorRT 10.3 is told to use fp16 and given the float file.
    assert read_manifest(model / "fp16").model_sha256 == read_manifest(model / "fp32").model_sha256
    assert read_passport(kept).precision == "fp16"
    assert (
        json.loads((kept / "report.json").read_text())["artifact_sha256"] == read_manifest(model / "fp16").model_sha256
    )
    assert "orin: pass (fp16)" in deploy("status", cwd=folder).stdout
    again, _ = build(folder, "--recipe", "fastest.toml", "--target", "orin-jp61")
    assert (again.proof, again.proven_on) == ("proven", ["orin"])
