"""Which of two models a device runs, seen from the selection, the server and the selftest."""

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from device_server import INFER, ROOT, answering, images, json_request
from tiny_package import with_manifest
from tiny_variant import AVX2, VNNI, TinyVariant, run_on, write_tiny_variant

from pipeline.artifacts import Place
from pipeline.cli.subject import open_subject as answering_here
from pipeline.progress import Silent
from targets.device.gate.shard import ShardError
from targets.device.model.cpu import saturates_8bit
from targets.device.model.golden import read_golden, write_golden
from targets.device.model.manifest import ManifestError, read_manifest
from targets.device.model.variant import FOLDER, MAIN, SATURATION_SAFE, choose
from targets.device.open_session import open_session
from targets.device.selftest import selftest

QEMU = "qemu-x86_64-static"


@pytest.fixture
def both(tmp_path: Path) -> TinyVariant:
    return write_tiny_variant(tmp_path / "artifact")


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "proven_on", "weight_bits", "variant"),
    [
        pytest.param(AVX2, "x86_64", "avx512_vnni", 8, SATURATION_SAFE, id="saturates, proven elsewhere"),
        pytest.param(AVX2, "x86_64", "avx_vnni", 8, SATURATION_SAFE, id="saturates, proven on the other VNNI"),
        pytest.param(AVX2 + " avx512bw", "x86_64", "avx512_vnni", 8, SATURATION_SAFE, id="AVX512 without VNNI"),
        pytest.param(AVX2, "x86_64", "avx2", 8, MAIN, id="saturates, but proven so"),
        pytest.param(AVX2, "x86_64", "avx512_vnni", 7, MAIN, id="the main model cannot saturate either"),
        pytest.param(AVX2, "x86_64", "avx512_vnni", None, MAIN, id="float"),
        pytest.param(VNNI, "x86_64", "avx512_vnni", 8, MAIN, id="VNNI"),
        pytest.param(VNNI, "x86_64", "avx_vnni", 8, MAIN, id="VNNI of another kind"),
        pytest.param("Features : asimd asimddp", "aarch64", "avx512_vnni", 8, MAIN, id="sums of 32 bits"),
    ],
)
def test_the_variant_runs_where_the_main_model_would_saturate_unproven(
    both: TinyVariant,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cpuinfo: str,
    machine: str,
    proven_on: str,
    weight_bits: int | None,
    variant: str,
) -> None:
    with_manifest(both.folder, instruction_set=proven_on, weight_bits=weight_bits)
    run_on(monkeypatch, tmp_path, cpuinfo, machine)
    chosen = choose(both.folder)
    assert chosen.variant == variant
    assert chosen.folder == (both.folder if variant == MAIN else both.folder / FOLDER)
    assert chosen.manifest == read_manifest(chosen.folder)


def test_without_a_variant_the_main_model_is_chosen_and_refused(
    both: TinyVariant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.rmtree(both.folder / FOLDER)
    run_on(monkeypatch, tmp_path, AVX2)
    chosen = choose(both.folder)
    assert (chosen.variant, chosen.reason) == (
        MAIN,
        "sums of 8-bit weights saturate on this CPU, and the image has no variant for it",
    )
    report = selftest(both.folder, None)
    assert report["passed"] is False
    assert "Build it with --weight-bits 7 for this device, or with --saturation-safe" in report["golden"]["reason"]
    with answering(both.folder) as client:
        told = client.get("/v2/health/ready")
        assert (told.status_code, told.json()["error"]) == (503, report["golden"]["reason"])
        assert client.get("/v2/models/tiny").json()["parameters"]["variant"] == MAIN


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def take_another_model(folder: Path) -> None:
    with_manifest(folder, version="0.2.0", classes=("d", "c", "b", "a"))


def take_8_bits(folder: Path) -> None:
    with_manifest(folder, weight_bits=8)


DAMAGES = [
    pytest.param(lose_the_manifest, "is not an artifact", id="no manifest"),
    pytest.param(take_another_model, "does not belong to the main model: version, classes differ", id="another"),
    pytest.param(take_8_bits, "has weight_bits 8, not 7", id="8 bits"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_variant_that_cannot_be_trusted_is_no_reason_to_run_the_main_model(
    both: TinyVariant,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    damage(both.folder / FOLDER)
    run_on(monkeypatch, tmp_path, AVX2)
    with pytest.raises(ManifestError, match=message):
        choose(both.folder)
    with answering(both.folder) as client:
        told = client.get("/v2/health/ready")
        assert told.status_code == 503
        assert message in told.json()["error"]
    # Where it is not wanted it does no harm.
    run_on(monkeypatch, tmp_path, VNNI)
    assert choose(both.folder).variant == MAIN


@pytest.mark.parametrize(("cpuinfo", "variant"), [(AVX2, SATURATION_SAFE), (VNNI, MAIN)])
def test_the_server_answers_with_the_model_it_names(
    both: TinyVariant,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    cpuinfo: str,
    variant: str,
) -> None:
    caplog.set_level(logging.INFO)
    run_on(monkeypatch, tmp_path, cpuinfo)
    folder = both.folder if variant == MAIN else both.folder / FOLDER
    manifest, values = read_manifest(folder), images(3)
    with answering(both.folder) as client:
        assert client.get("/v2/health/ready").json() == {"ready": True}
        told = client.get("/v2/models/tiny").json()["parameters"]
        assert (told["variant"], told["model_sha256"]) == (variant, manifest.model_sha256)
        answer = client.post(INFER, json=json_request(values)).json()["outputs"][0]
    with open_session(folder, manifest) as session:
        np.testing.assert_allclose(np.array(answer["data"]).reshape(3, -1), session.infer(values), rtol=1e-6)
    (record,) = [record for record in caplog.records if record.message == "model chosen"]
    fields = record.__dict__["fields"]
    assert (fields["variant"], fields["model_sha256"]) == (variant, manifest.model_sha256)
    assert ("of the variant with 7-bit weights do not" in fields["reason"]) is (variant == SATURATION_SAFE)


def test_the_two_models_do_not_answer_alike(both: TinyVariant) -> None:
    """Or the tests above would say nothing."""
    main, safe = both.manifests
    with open_session(both.folder, main) as one, open_session(both.folder / FOLDER, safe) as other:
        assert not np.array_equal(one.infer(images(3)), other.infer(images(3)))


def test_the_variants_own_golden_images_decide(
    both: TinyVariant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pixels, logits = read_golden(both.folder / FOLDER)
    write_golden(both.folder / FOLDER, pixels, np.roll(logits, 1, axis=1))
    run_on(monkeypatch, tmp_path, AVX2)
    with answering(both.folder) as client:
        told = client.get("/v2/health/ready")
        assert told.status_code == 503
        assert "golden images do not match" in told.json()["error"]
    run_on(monkeypatch, tmp_path, VNNI)
    with answering(both.folder) as client:
        assert client.get("/v2/health/ready").status_code == 200


def test_the_selftest_judges_the_model_that_runs(
    both: TinyVariant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    main, safe = both.manifests
    run_on(monkeypatch, tmp_path, AVX2)
    found = selftest(both.folder, both.main.proof.shard, max_drop=50.0)
    assert (found["variant"], found["model_sha256"]) == (SATURATION_SAFE, safe.model_sha256)
    assert "those of the variant with 7-bit weights do not" in found["variant_reason"]
    assert found["instruction_set"] == "avx2"
    assert found["passed"] is True
    assert found["gate"]["artifact_top1"] == both.safe.report.artifact_top1
    run_on(monkeypatch, tmp_path, VNNI)
    found = selftest(both.folder, both.main.proof.shard, max_drop=50.0)
    assert (found["variant"], found["model_sha256"]) == (MAIN, main.model_sha256)
    with pytest.raises(ShardError):
        selftest(both.folder, tmp_path / "cpuinfo")


def test_an_artifact_folder_answers_as_a_device_with_this_cpu_would(
    both: TinyVariant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    main, safe = both.manifests
    for cpuinfo, expected in ((AVX2, safe), (VNNI, main)):
        run_on(monkeypatch, tmp_path, cpuinfo)
        with answering_here(str(both.folder), progress=Silent()) as subject:
            assert subject.place is Place.HOST
            assert subject.manifest == expected


ON_AVX2 = """
import json, sys
from pathlib import Path
import numpy as np
from targets.device.model.cpu import saturates_8bit
from targets.device.model.golden import read_golden
from targets.device.model.manifest import read_manifest
from targets.device.model.preprocess import normalize
from targets.device.open_session import open_session
found = []
for folder in map(Path, sys.argv[1:]):
    manifest = read_manifest(folder)
    pixels, expected = read_golden(folder)
    with open_session(folder, manifest) as session:
        found.append(float(np.abs(session.infer(normalize(pixels, manifest.preprocessing)) - expected).max()))
print(json.dumps(found))
"""


@pytest.mark.skipif(saturates_8bit() or platform.machine() != "x86_64", reason="needs x86 with VNNI")
@pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")
def test_kernels_without_vnni_move_the_main_models_answers_and_not_the_variants(both: TinyVariant) -> None:
    """QEMU's own CPU has AVX2 and no AVX512, so ONNX Runtime takes the kernels that saturate."""
    done = subprocess.run(
        [QEMU, "-cpu", "max", sys.executable, "-c", ON_AVX2, str(both.folder), str(both.folder / FOLDER)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    main, safe = json.loads(done.stdout)
    _, logits = read_golden(both.folder)
    assert main > 0.01 * np.ptp(logits)
    assert safe < 1e-4 * np.ptp(logits)
