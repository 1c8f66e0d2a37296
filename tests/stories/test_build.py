"""The whole chain on the embedded digits, as a user runs it: real training, real ONNX Runtime, no image."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builds import FAST, ROOT, deploy
from PIL import Image

from pipeline.report.document import Document


def test_the_document_says_it_all(built: Document) -> None:
    (target,) = built.targets
    assert target.target == "cpu"
    assert target.verdict == "pass"
    assert target.place == "host"
    assert target.images == 800
    assert target.float_top1 is not None
    assert target.float_top1 > 0.8
    assert target.artifact_top1 is not None
    assert target.drop_points == pytest.approx(100 * (target.float_top1 - target.artifact_top1))
    assert target.macs_before is not None
    assert target.macs_after is not None
    assert target.macs_after <= 0.8 * target.macs_before
    assert target.params_after < target.params_before  # type: ignore[operator]
    assert target.float_latency_ms > 0  # type: ignore[operator]
    assert target.artifact_latency_ms > 0  # type: ignore[operator]
    assert target.image is None


def test_the_artifact_is_published_with_all_it_needs(built: Document, trained: Path) -> None:
    (folder,) = (trained / ".deploy" / "artifacts").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert {"model.onnx", "manifest.json", "golden.npz", "shard.zip", "predictions.npz", "report.json"} <= names
    assert json.loads((folder / "report.json").read_text())["verdict"] == "pass"


@pytest.mark.slow
def test_a_second_build_does_nothing_and_needs_no_heavy_library(built: Document, trained: Path) -> None:
    code = (
        "import sys\nsys.argv = ['deploy', *sys.argv[1:]]\nfrom pipeline.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'scipy', 'sklearn', 'docker'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "build", "--data", "digits", "--checkpoint", "digits.safetensors", *FAST],
        cwd=trained,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert "nothing to do: everything was built before" in done.stderr
    assert done.stderr.strip().endswith("[]")


@pytest.mark.slow
def test_another_margin_judges_the_stored_predictions_again(built: Document, trained: Path) -> None:
    before = {path for path in (trained / ".deploy").glob("*/*/stage.json")}
    arguments = [argument if argument != "30" else "20" for argument in FAST]
    done = deploy("build", "--data", "digits", "--checkpoint", "digits.safetensors", *arguments, "--json", cwd=trained)
    (target,) = Document.model_validate_json(done.stdout).targets
    assert {path for path in (trained / ".deploy").glob("*/*/stage.json")} == before
    assert target.drop_points == built.targets[0].drop_points
    assert "20 allowed" in done.stderr


@pytest.mark.slow
def test_a_failed_gate_still_prints_the_document_and_keeps_the_artifact(trained: Path, tmp_path: Path) -> None:
    """Post-training quantization of a network pruned to a tenth without recovery cannot pass at 0.1 points."""
    arguments = ["--macs", "0.15", "--epochs", "0", "--qat-epochs", "0", "--max-drop", "0.1", "--no-image"]
    checkpoint = str(trained / "digits.safetensors")
    done = deploy("build", "--data", "digits", "--checkpoint", checkpoint, *arguments, "--json", cwd=tmp_path, code=10)
    (target,) = Document.model_validate_json(done.stdout).targets
    assert target.verdict == "fail"
    assert target.image is None
    assert "No image was built; artifact and report are kept" in done.stderr
    (folder,) = (tmp_path / ".deploy" / "artifacts").iterdir()
    assert folder.name == "model-0.1.0-cpu.fail"
    assert json.loads((folder / "report.json").read_text())["verdict"] == "fail"
    assert target.artifact == f".deploy/artifacts/{folder.name}"


@pytest.mark.long
def test_a_what_if_that_fails_leaves_the_proven_artifact_where_it_is(trained: Path, tmp_path: Path) -> None:
    given = (
        "--data",
        "digits",
        "--checkpoint",
        str(trained / "digits.safetensors"),
        "--qat-epochs",
        "0",
        "--no-image",
    )
    deploy("build", *given, "--max-drop", "30", cwd=tmp_path)
    proven = tmp_path / ".deploy" / "artifacts" / "model-0.1.0-cpu"
    before = {path.name: path.read_bytes() for path in proven.iterdir()}
    failed = deploy("build", *given, "--macs", "0.15", "--epochs", "0", "--max-drop", "0.1", cwd=tmp_path, code=10)
    assert "the gate's images have judged 2 artifacts of this model" in failed.stderr
    assert {path.name: path.read_bytes() for path in proven.iterdir()} == before
    beside = proven.with_name("model-0.1.0-cpu.fail")
    Image.new("L", (8, 8)).save(tmp_path / "photo.png")
    assert "not proven" not in deploy("predict", str(proven), "photo.png", cwd=tmp_path).stderr
    assert (
        "is not proven: the gate's verdict is fail" in deploy("predict", str(beside), "photo.png", cwd=tmp_path).stderr
    )


@pytest.mark.slow
def test_an_accuracy_that_was_stated_and_is_not_there_stops_the_build(trained: Path, tmp_path: Path) -> None:
    given = ("--data", "digits", "--checkpoint", str(trained / "digits.safetensors"))
    done = deploy("load", *given, "--expect-accuracy", "0.6", cwd=tmp_path)
    assert "60.00% expected: 800 images detect a loss of 3.4 points" in done.stderr
    stopped = deploy("load", *given, "--expect-accuracy", "1.0", cwd=tmp_path, code=5)
    assert "100.00% are expected" in stopped.stderr
    wrong = deploy("load", *given, "--expect-accuracy", "91.7", cwd=tmp_path, code=3)
    assert "such as 0.917 for 91.7 %" in wrong.stderr


@pytest.mark.parametrize("name", ["occupied", "occupied/below", "a" * 300])
def test_a_workspace_that_cannot_be_a_folder_is_an_error(name: str, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("")
    given = ("--data", "digits", "--checkpoint", str(trained / "digits.safetensors"))
    done = deploy("load", *given, "--workspace", name, cwd=tmp_path, code=14)
    assert "cannot be a folder" in done.stderr


@pytest.mark.slow
def test_one_stage_alone_stops_after_it(trained: Path, tmp_path: Path) -> None:
    deploy("load", "--data", "digits", "--checkpoint", str(trained / "digits.safetensors"), cwd=tmp_path)
    stages = {path.parent.parent.name for path in (tmp_path / ".deploy").glob("*/*/stage.json")}
    assert stages == {"load"}


@pytest.mark.long
def test_a_plan_names_what_is_done_and_what_is_not(built: Document, trained: Path, tmp_path: Path) -> None:
    checkpoint = str(trained / "digits.safetensors")
    asked = ("plan", "--data", "digits", "--checkpoint", checkpoint, *FAST)
    fresh = json.loads(deploy(*asked, "--json", cwd=tmp_path).stdout)
    assert [stage["stage"] for stage in fresh[0]["stages"] if stage["is_done"]] == ["load"]
    assert fresh[0]["seconds_left"] > 0
    assert fresh[0]["disk_bytes"] > 0
    assert "quantize" in deploy(*asked, cwd=tmp_path).stdout


@pytest.mark.slow
def test_status_shows_the_stages_and_clean_removes_them(trained: Path, tmp_path: Path) -> None:
    deploy("load", "--data", "digits", "--checkpoint", str(trained / "digits.safetensors"), cwd=tmp_path)
    assert "load" in deploy("status", cwd=tmp_path).stdout
    deploy("clean", cwd=tmp_path)
    assert not list((tmp_path / ".deploy").glob("*/*/stage.json"))


@pytest.mark.slow
def test_a_published_file_that_was_changed_is_found(trained: Path, built: Document, tmp_path: Path) -> None:
    assert built.targets[0].artifact is not None
    published = trained / built.targets[0].artifact
    root = tmp_path / ".deploy"
    shutil.copytree(published.parents[1], root)
    here = root / published.relative_to(published.parents[1])
    deploy("status", "--verify", cwd=tmp_path)
    for file in sorted(path for path in here.iterdir() if path.is_file()):
        before, times = file.read_bytes(), file.stat()
        file.write_bytes(bytes([before[0] ^ 1, *before[1:]]))
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        done = deploy("status", "--verify", cwd=tmp_path, code=14)
        assert file.name in done.stderr
        assert f"{here.relative_to(tmp_path)}: damaged" in done.stdout
        file.write_bytes(before)


@pytest.mark.long
def test_two_targets_share_their_work(trained: Path, tmp_path: Path) -> None:
    own = tmp_path / "gateway.toml"
    own.write_text((ROOT / "targets/catalogue/cpu.toml").read_text())
    checkpoint = str(trained / "digits.safetensors")
    arguments = ["--qat-epochs", "0", "--max-drop", "30", "--no-image", "--target", "cpu", "--target", str(own)]
    done = deploy("build", "--data", "digits", "--checkpoint", checkpoint, *arguments, "--json", cwd=tmp_path)
    document = Document.model_validate_json(done.stdout)
    assert [target.target for target in document.targets] == ["cpu", "gateway"]
    assert len(list((tmp_path / ".deploy" / "quantize").iterdir())) == 1
    assert len(list((tmp_path / ".deploy" / "compile").iterdir())) == 2
