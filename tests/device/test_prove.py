"""`python -m targets.device prove`: statuses, files and words, for both runtimes; TensorRT and CUDA stand in."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from device_server import ROOT, device, environment, python
from tiny_cuda import library
from tiny_package import TinyPackage, write_tiny_package
from tiny_shard import write_shard
from tiny_tensorrt import Device, rarest, tiny_device, write_tiny_model

from pipeline.artifacts import Place
from pipeline.package.build_context import TENSORRT_ONLY, device_code
from pipeline.validate.judge import Terms, judge_with
from pipeline.validate.predictions import read_predictions
from targets.device.tensorrt.passport import read as read_passport

__all__ = ["library"]
ON_CPU = {"report.json", "predictions.npz", "proof.json"}
ON_GPU = {*ON_CPU, "model.engine", "passport.json", "layers.json"}
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def gpu(tmp_path: Path, library: Path) -> Device:
    return tiny_device(tmp_path / "device", library)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "model", fallback="fp16")
    return tmp_path / "model"


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "artifact")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def lines(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stderr.splitlines()]


def judged_by_the_host(out: Path, shard: Path, *, max_drop: float, target: str) -> dict[str, Any]:
    stored = read_predictions(out / "predictions.npz")
    report = asdict(
        judge_with(shard, stored, target=target, place=Place.DEVICE, terms=Terms(max_drop=max_drop, gate_looks=1))
    )
    # What a device cannot know, and what is not made there.
    del report["gate_looks"], report["groups"], report["expected_accuracy"]
    found: dict[str, Any] = json.loads(json.dumps(report))
    return found


@pytest.mark.slow
def test_on_a_gpu_everything_that_proves_the_engine_is_handed_over(gpu: Device, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "out"
    done = device("prove", str(out), MODEL_FOLDER=model, **{**gpu.environment, "MEASURE_SECONDS": 1})
    assert done.returncode == 0, done.stderr
    assert names(out) == {*ON_GPU, "measurements.json"}
    report = json.loads(done.stdout)
    assert report == json.loads((out / "report.json").read_text())
    assert report == judged_by_the_host(out, model / "shard.zip", max_drop=1.0, target="orin-jp61")
    assert (report["place"], report["instruction_set"]) == ("device", "sm_87")
    assert [entry["phase"] for entry in lines(done) if entry["message"] == "starting"] == [
        "open",
        "build",
        "golden",
        "gate",
        "measure",
    ]
    assert lines(done)[-1]["message"] == "proven"
    passport = read_passport(out)
    assert (passport.precision, passport.built_at_place) == ("int8", "device")
    (entry,) = gpu.entries
    for name in ("model.engine", "passport.json", "layers.json", "report.json", "measurements.json"):
        assert (out / name).read_bytes() == (entry / name).read_bytes()
    measured = json.loads((out / "measurements.json").read_text())
    assert 0 < measured["latency_ms"]["p50"] <= measured["latency_ms"]["p99"]
    proof = json.loads((out / "proof.json").read_text())
    assert (proof["state"], proof["precision"], proof["measurements"]) == ("proven", "int8", measured)


def test_the_server_finds_what_was_proven(gpu: Device, model: Path, tmp_path: Path) -> None:
    """And another proof of the same builds nothing."""
    device("prove", str(tmp_path / "first"), MODEL_FOLDER=model, **gpu.environment)
    done = device("prove", str(tmp_path / "second"), MODEL_FOLDER=model, **gpu.environment)
    assert done.returncode == 0, done.stderr
    assert [entry["phase"] for entry in lines(done) if entry["message"] == "starting"] == ["open"]
    assert (tmp_path / "first" / "report.json").read_bytes() == (tmp_path / "second" / "report.json").read_bytes()
    assert names(tmp_path / "second") == ON_GPU


def test_what_is_not_proven_is_handed_over_all_the_same(gpu: Device, tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    write_tiny_model(model)
    done = device("prove", str(out), MODEL_FOLDER=model, **{**gpu.environment, "STAND_IN_SPOILS": rarest(model)})
    assert done.returncode == 1, done.stderr
    assert names(out) == ON_GPU
    assert json.loads(done.stdout)["verdict"] == "fail"
    assert lines(done)[-1]["message"] == "not proven"
    assert "a drop of 12.25 points" in lines(done)[-1]["reason"]
    assert json.loads((out / "proof.json").read_text())["state"] == "failed"


def test_the_precision_that_was_chosen_is_in_every_document(gpu: Device, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = device("prove", str(out), MODEL_FOLDER=model, **{**gpu.environment, "STAND_IN_SPOILS": rarest(model)})
    assert done.returncode == 0, done.stderr
    proof = json.loads((out / "proof.json").read_text())
    assert (proof["state"], proof["variant"], proof["precision"]) == ("proven", "fp16", "fp16")
    assert read_passport(out).precision == "fp16"
    assert "instead of int8" in lines(done)[-1]["reason"]


@pytest.mark.slow
def test_what_was_timed_is_in_every_document_and_the_server_goes_by_it(gpu: Device, tmp_path: Path) -> None:
    """Also by another shard than that of the image: the times are of the engines."""
    model, out = tmp_path / "model", tmp_path / "out"
    write_tiny_model(model, fallback="fastest")
    write_tiny_model(tmp_path / "other", count=500)
    given = {"MODEL_FOLDER": model, **gpu.environment}
    slow = {"STAND_IN_SLOW": json.dumps({"int8": 500, "fp32": 500})}
    done = device("prove", str(out), str(tmp_path / "other" / "shard.zip"), **{**given, **slow})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    comparison = report.pop("comparison")
    assert report == json.loads((out / "report.json").read_text())
    assert report["images"] == 500
    assert comparison["text"] == (
        "fp16: 1.5 ms against 2 ms of int8 and 2 ms of fp32, timed in turn on Orin with TensorRT 10.3.0.30"
    )
    proof = json.loads((out / "proof.json").read_text())
    assert (proof["state"], proof["precision"], proof["comparison"]) == ("proven", "fp16", comparison)
    assert read_passport(out).precision == "fp16"
    assert names(out) == ON_GPU
    assert any(entry.get("reason") == comparison["text"] for entry in lines(done))
    for phases in (["open", "golden", "gate"] * 3, ["open"]):
        done = device("prove", str(tmp_path / "own"), **given)
        assert done.returncode == 0, done.stderr
        assert [entry["phase"] for entry in lines(done) if entry["message"] == "starting"] == phases
        assert json.loads(done.stdout)["comparison"]["chosen"] == "fp16"


@pytest.mark.slow
def test_where_no_precision_is_proven_the_main_one_is_handed_over(gpu: Device, tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    write_tiny_model(model, fallback="fastest")
    spoilt = {"STAND_IN_SPOILS": rarest(model), "STAND_IN_SPOILT": "int8 fp16 fp32"}
    done = device("prove", str(out), MODEL_FOLDER=model, **{**gpu.environment, **spoilt})
    assert done.returncode == 1, done.stderr
    assert names(out) == ON_GPU
    assert (json.loads(done.stdout)["verdict"], read_passport(out).precision) == ("fail", "int8")
    assert lines(done)[-1]["reason"].count("the gate says fail: ") == 3


def test_another_shard_is_asked_about_and_kept_for_no_start(gpu: Device, model: Path, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "other", count=500)
    shard = tmp_path / "other" / "shard.zip"
    device("prove", str(tmp_path / "first"), MODEL_FOLDER=model, **gpu.environment)
    before = {path.name: path.read_bytes() for path in gpu.entries[0].iterdir()}
    done = device("prove", str(tmp_path / "out"), str(shard), MODEL_FOLDER=model, **gpu.environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 500
    assert json.loads(done.stdout) == judged_by_the_host(tmp_path / "out", shard, max_drop=1.0, target="orin-jp61")
    assert {path.name: path.read_bytes() for path in gpu.entries[0].iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"PYTHONPATH": ""}, "TensorRT cannot be imported", id="no TensorRT"),
        pytest.param({"ENGINE_CACHE": "/dev/null/x"}, "the engine cache /dev/null/x cannot be used", id="no cache"),
        pytest.param({"STAND_IN_BUILD": "signal SIGKILL"}, "was killed", id="no memory"),
        pytest.param({"MODEL_FOLDER": "/nowhere"}, "/nowhere is not an artifact", id="no model"),
    ],
)
def test_where_it_cannot_be_found_out_the_status_is_3(
    gpu: Device, model: Path, tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    done = device("prove", str(tmp_path / "out"), **{"MODEL_FOLDER": str(model), **gpu.environment, **changes})
    assert (done.returncode, done.stdout) == (3, "")
    last = lines(done)[-1]
    assert (last["level"], last["message"]) == ("error", "cannot be proven here")
    assert reason in last["reason"]
    assert names(tmp_path / "out") == set()


def test_a_place_that_cannot_be_written_is_refused_before_a_build(gpu: Device, model: Path) -> None:
    done = device("prove", "/dev/null/out", MODEL_FOLDER=model, **gpu.environment)
    assert done.returncode == 3
    (line,) = lines(done)
    assert line["reason"].startswith("the proof cannot be written to /dev/null/out: ")
    assert not gpu.cache.exists()


def test_asked_to_end_it_ends_with_all_that_it_has_begun(gpu: Device, model: Path, tmp_path: Path) -> None:
    given = environment({**gpu.environment, "MODEL_FOLDER": model, "STAND_IN_BUILD": "sleep 60"})
    process = subprocess.Popen(
        [sys.executable, "-m", "targets.device", "prove", str(tmp_path / "out")],
        cwd=ROOT, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(gpu.cache.glob(".building-*")) if gpu.cache.exists() else True:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert json.loads(said.splitlines()[-1])["message"] == "cannot be proven here"
    assert (gpu.entries, gpu.left_over) == ([], [])


@pytest.mark.slow
def test_on_a_cpu_the_model_is_proven_by_the_shard_that_is_given(tiny: TinyPackage, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = device("prove", str(out), str(tiny.proof.shard), MODEL_FOLDER=tiny.folder, MEASURE_SECONDS=1)
    assert names(out) == {*ON_CPU, "measurements.json"}
    report = json.loads(done.stdout)
    # No report came with it, so the usual margin holds, which 120 images cannot prove.
    assert (done.returncode, report["max_drop_points"], report["verdict"]) == (1, 1.0, "undecided")
    assert report == judged_by_the_host(out, tiny.proof.shard, max_drop=1.0, target="cpu")
    assert json.loads((out / "measurements.json").read_text())["latency_ms"]["p50"] > 0


def test_on_a_cpu_the_margin_is_that_of_the_report_that_came_with_it(tiny: TinyPackage, tmp_path: Path) -> None:
    raw = {**asdict(tiny.report), "drop_interval_points": list(tiny.report.drop_interval_points)}
    (tiny.folder / "report.json").write_text(json.dumps(raw))
    shard = write_shard(tiny, tmp_path / "shard")
    settings = {"MODEL_FOLDER": tiny.folder, "MEASURE_SECONDS": 0}
    done = device("prove", str(tmp_path / "out"), str(shard), **settings)
    assert done.returncode == 0, done.stderr
    assert names(tmp_path / "out") == ON_CPU
    assert (json.loads(done.stdout)["max_drop_points"], json.loads(done.stdout)["lost"]) == (50.0, 15)
    assert json.loads((tmp_path / "out" / "proof.json").read_text())["passport"] is None
    # The image brings its own.
    done = device("prove", str(tmp_path / "own"), **settings)
    assert (done.returncode, json.loads(done.stdout)["lost"]) == (0, tiny.report.lost)


def test_without_any_shard_there_is_nothing_to_be_proven_by(tiny: TinyPackage, tmp_path: Path) -> None:
    tiny.proof.shard.unlink()
    done = device("prove", str(tmp_path / "out"), MODEL_FOLDER=tiny.folder)
    assert (done.returncode, done.stdout) == (3, "")
    assert "there is no shard" in lines(done)[-1]["reason"]


@pytest.mark.parametrize("arguments", [[], ["out", "shard", "more"]])
def test_wrong_use_shows_how_to_use_it(arguments: list[str]) -> None:
    done = device("prove", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "prove OUT [SHARD]" in done.stderr


def test_a_bad_setting_is_named(tmp_path: Path) -> None:
    done = device("prove", str(tmp_path), MEASURE_SECONDS="long")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: MEASURE_SECONDS is 'long'; use a whole number from 0 to 3600")


def test_no_onnxruntime_is_needed_where_tensorrt_runs_the_model() -> None:
    """Every module of the device's code imports without it, but for the one that runs ONNX files."""
    code = (
        "import sys, importlib, pkgutil\n"
        "sys.modules['onnxruntime'] = None\n"
        "import targets.device\n"
        "names = [module.name for module in pkgutil.walk_packages(targets.device.__path__, 'targets.device.')]\n"
        "left_out = ('model.onnxruntime_session', '__main__', 'tensorrt.build', 'tensorrt.log',"
        " 'tensorrt.build_worker', 'tensorrt.session', 'tensorrt.strongly_typed', 'tensorrt.weakly_typed')\n"
        "for name in names:\n"
        "    if name.removeprefix('targets.device.') not in left_out:\n"
        "        importlib.import_module(name)\n"
        "print(len(names))"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_an_image_of_onnxruntime_needs_nothing_of_tensorrt() -> None:
    """What such an image leaves out is imported by nothing that it serves, proves or tests itself with."""
    left_out = sorted(
        f"targets.device.{name.removesuffix('.py').replace('/', '.')}"
        for name in device_code().keys() - device_code(TENSORRT_ONLY).keys()
        if not name.endswith("__init__.py")
    )
    assert {f"targets.device.{name}" for name in ("tensorrt.start", "nvidia.cudart", "sensors.nvml")} <= set(left_out)
    done = python(
        "-c",
        "import sys\n"
        f"for name in {left_out!r}:\n"
        "    sys.modules[name] = None\n"
        "from targets.device import prove, selftest, serve, healthcheck\n"
        "from targets.device.model import onnxruntime_session",
    )
    assert done.returncode == 0, done.stderr
