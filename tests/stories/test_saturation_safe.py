"""`deploy build --saturation-safe` as a user runs it: two models, two reports, one image for either kind of CPU.

Needs a CPU with VNNI (or another that adds int8 products in 32 bits): elsewhere 8-bit weights are no ones to prove.
"""

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
from builds import deploy
from onnx import numpy_helper
from tiny_variant import AVX2, run_on

from pipeline.benchmarking.image import raw_session
from pipeline.containers import container
from pipeline.containers.container import started
from pipeline.containers.engine import Engine
from pipeline.package.labels import PREFIX
from pipeline.progress import Silent
from pipeline.report.document import Document, TargetSummary
from pipeline.validate.predictions import read_predictions, write_predictions
from targets.device.model.cpu import instruction_set, saturates_8bit
from targets.device.model.manifest import read_manifest
from targets.device.model.variant import FOLDER, MAIN, SATURATION_SAFE, choose
from targets.device.selftest import selftest

pytestmark = pytest.mark.skipif(saturates_8bit(), reason="this CPU's int8 kernels saturate with 8-bit weights")
NAME = "test-saturation-safe"
FAST = (
    "--data",
    "digits",
    "--checkpoint",
    "digits.safetensors",
    "--qat-epochs",
    "0",
    "--max-drop",
    "20",
    "--name",
    NAME,
    "--json",
)
SAFE = ("build", *FAST, "--weight-bits", "8", "--saturation-safe")
PUBLISHED = f".deploy/artifacts/{NAME}-0.1.0-cpu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a trained `digits.safetensors` in it."""
    made = tmp_path_factory.mktemp("saturation-safe")
    deploy("train", "--epochs", "4", "-o", "digits.safetensors", cwd=made)
    return made


def target_of(stdout: str) -> TargetSummary:
    (target,) = Document.model_validate_json(stdout).targets
    return target


@pytest.fixture(scope="module")
def built(folder: Path) -> TargetSummary:
    done = deploy(*SAFE, "--no-image", cwd=folder)
    assert "saturation-safe variant: 7-bit weights" in done.stderr
    assert "saturation-safe variant: pass: top-1" in done.stderr
    return target_of(done.stdout)


def test_there_are_two_models_and_two_reports(built: TargetSummary, folder: Path) -> None:
    published = folder / PUBLISHED
    main, safe = read_manifest(published), read_manifest(published / FOLDER)
    assert (main.weight_bits, safe.weight_bits) == (8, 7)
    assert main.model_sha256 != safe.model_sha256
    reports = [json.loads((each / "report.json").read_text()) for each in (published, published / FOLDER)]
    assert [each["artifact_sha256"] for each in reports] == [main.model_sha256, safe.model_sha256]
    assert reports[0]["shard_sha256"] == reports[1]["shard_sha256"]
    assert [each["verdict"] for each in reports] == ["pass", "pass"]
    assert [each["max_drop_points"] for each in reports] == [20, 20]
    # Each is an artifact of its own that this gate has judged.
    assert [each["gate_looks"] for each in reports] == [1, 2]
    assert built.saturation_safe is not None
    assert built.saturation_safe.artifact_top1 == reports[1]["artifact_top1"]
    assert built.artifact_top1 == reports[0]["artifact_top1"]


def test_the_weights_that_ship_are_of_7_bits(built: TargetSummary, folder: Path) -> None:
    model = onnx.load(folder / PUBLISHED / FOLDER / "model.onnx")
    weights = [numpy_helper.to_array(each) for each in model.graph.initializer]
    integers = [each for each in weights if each.dtype == np.int8 and each.ndim > 1]
    assert len(integers) >= 8
    assert max(int(np.abs(each.astype(int)).max()) for each in integers) == 63


def test_the_published_folder_proves_itself_on_either_kind_of_cpu(
    built: TargetSummary, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    published = folder / PUBLISHED
    here = selftest(published, published / "shard.zip", max_drop=20.0)
    assert (here["passed"], here["variant"]) == (True, "main")
    run_on(monkeypatch, tmp_path, AVX2)
    there = selftest(published, published / "shard.zip", max_drop=20.0)
    assert (there["passed"], there["variant"], there["instruction_set"]) == (True, SATURATION_SAFE, "avx2")
    assert built.saturation_safe is not None
    assert there["gate"]["artifact_top1"] == built.saturation_safe.artifact_top1


def test_again_is_nothing_to_do_and_without_it_nothing_of_it_is_left(built: TargetSummary, folder: Path) -> None:
    again = deploy(*SAFE, "--no-image", cwd=folder)
    assert "nothing to do: everything was built before" in again.stderr
    before = {path.parent.name for path in (folder / ".deploy").glob("*/*/stage.json")}
    plain = deploy(*SAFE, "--no-image", "--no-saturation-safe", cwd=folder)
    assert {path.parent.name for path in (folder / ".deploy").glob("*/*/stage.json")} == before
    assert target_of(plain.stdout).saturation_safe is None
    assert not (folder / PUBLISHED / FOLDER).exists()


def test_a_variant_that_does_not_pass_the_gate_stops_the_build_by_name(built: TargetSummary, folder: Path) -> None:
    """The answers it gave are spoiled where the workspace keeps them, so that the very gate says no."""
    manifest = read_manifest(folder / PUBLISHED)
    (kept,) = [
        path
        for path in (folder / ".deploy" / "validate").glob("*/predictions.npz")
        if read_predictions(path).artifact_sha256 != manifest.model_sha256
    ]
    whole = kept.read_bytes()
    given = read_predictions(kept)
    try:
        write_predictions(kept, type(given)(**{**vars(given), "logits": -given.logits}))
        done = deploy(*SAFE, cwd=folder, code=10)
        target = target_of(done.stdout)
        assert target.error is not None
        assert target.error.startswith("saturation-safe variant: fail: top-1")
        assert target.error.endswith("No image was built; artifact and report are kept.")
        assert (target.verdict, target.image) == ("pass", None)
        assert target.saturation_safe is not None
        assert target.saturation_safe.verdict == "fail"
    finally:
        kept.write_bytes(whole)


@pytest.mark.long
def test_an_option_without_use_is_answered(folder: Path, tmp_path: Path) -> None:
    checkpoint = str(folder / "digits.safetensors")
    arguments = ("--qat-epochs", "0", "--max-drop", "20", "--weight-bits", "7", "--saturation-safe", "--no-image")
    done = deploy("build", "--data", "digits", "--checkpoint", checkpoint, *arguments, cwd=tmp_path)
    assert re.search(
        r"note: saturation_safe is on, but cpu needs no variant: its weights already have 7 bits", done.stderr
    )


@pytest.fixture(scope="module")
def packaged(engine: Engine, base_image: str, built: TargetSummary, folder: Path) -> Iterator[TargetSummary]:
    yield target_of(deploy(*SAFE, "--base-image", base_image, cwd=folder).stdout)
    for image in engine.client.images.list(name=NAME):
        engine.client.images.remove(str(image.id), force=True)


@pytest.fixture
def without_vnni(tmp_path: Path) -> dict[str, dict[str, str]]:
    """Mounts that show a container this machine's CPU without what keeps sums from saturating."""
    shown = tmp_path / "cpuinfo"
    shown.write_text(re.sub(r"\b(avx512_vnni|avx_vnni)\b", "", Path("/proc/cpuinfo").read_text()))
    tmp_path.chmod(0o755)
    return {str(shown): {"bind": "/proc/cpuinfo", "mode": "ro"}}


@pytest.mark.docker
def test_both_are_proven_in_the_image(packaged: TargetSummary, engine: Engine, folder: Path) -> None:
    assert packaged.image is not None
    assert packaged.saturation_safe is not None
    assert (packaged.place, packaged.saturation_safe.place) == ("image", "image")
    safe = read_manifest(folder / PUBLISHED / FOLDER)
    labels = engine.client.images.get(packaged.image.tag).labels
    assert labels[PREFIX + "saturation-safe.model.sha256"] == safe.model_sha256
    assert labels[PREFIX + "saturation-safe.verdict"] == "pass"
    assert float(labels[PREFIX + "saturation-safe.drop-points"]) == pytest.approx(
        packaged.saturation_safe.drop_points, abs=1e-3
    )


@pytest.mark.docker
def test_a_container_without_vnni_serves_the_variant(
    packaged: TargetSummary,
    engine: Engine,
    folder: Path,
    without_vnni: dict[str, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And whoever asks it knows: the client, and the raw session that `deploy bench` holds beside it."""
    monkeypatch.setattr(container, "volumes_for", lambda _engine, _image: nullcontext(without_vnni))
    assert packaged.image is not None
    tag, safe = packaged.image.tag, read_manifest(folder / PUBLISHED / FOLDER)
    images = np.random.default_rng(0).standard_normal((4, *safe.input_shape)).astype(np.float32)
    with started(engine, tag, progress=Silent()) as server, raw_session(server, tag) as (raw, _):
        assert server.client.variant() == SATURATION_SAFE
        assert server.client.manifest == safe
        assert server.client.runs_on()[1] not in ("avx512_vnni", "avx_vnni", instruction_set())
        np.testing.assert_array_equal(server.client.infer(images), raw.infer(images))
        assert '"variant": "saturation_safe"' in server.container.logs().decode()
    with started(engine, tag, progress=Silent(), model_folder=f"{container.MODEL_FOLDER}/{FOLDER}") as server:
        # By name: there is no other model inside that folder, whatever the CPU.
        assert (server.client.variant(), server.client.manifest) == (MAIN, safe)


@pytest.mark.docker
def test_the_selftest_of_such_a_device_judges_the_variant(
    packaged: TargetSummary, engine: Engine, folder: Path, without_vnni: dict[str, dict[str, str]]
) -> None:
    assert packaged.image is not None
    assert packaged.saturation_safe is not None
    shard = (folder / PUBLISHED / "shard.zip").resolve()
    volumes = {**without_vnni, str(shard): {"bind": "/shard.zip", "mode": "ro"}}
    # Temporary folders of tests are their owner's alone; the container's user is nobody in particular.
    printed = engine.client.containers.run(
        packaged.image.tag, ["selftest", "/shard.zip", "20"], remove=True, user="0", volumes=volumes, read_only=True
    )
    report = json.loads(printed)
    assert (report["variant"], report["passed"]) == (SATURATION_SAFE, True)
    assert report["gate"]["artifact_top1"] == packaged.saturation_safe.artifact_top1


@pytest.mark.docker
def test_this_machine_serves_the_main_model(packaged: TargetSummary, folder: Path) -> None:
    assert packaged.image is not None
    check = deploy("validate", packaged.image.tag, "--max-drop", "20", "--json", cwd=folder)
    report = json.loads(check.stdout)
    assert report["artifact_sha256"] == choose(folder / PUBLISHED).manifest.model_sha256
    assert report["artifact_top1"] == packaged.artifact_top1
