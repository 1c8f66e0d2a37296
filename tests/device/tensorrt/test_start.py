"""An image's first start on a GPU and those after it, as processes; TensorRT and CUDA stand in for the real ones.

What our server does around TensorRT: builds, proves, keeps, finds, refuses, and says so. Not what TensorRT does.
"""

import io
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_server import images, serving, start, until
from tensorrt_server import flip, get, logits_of, model, phases, raw, ready, reason_of, refused, settings
from tiny_cuda import library
from tiny_tensorrt import COUNT, VERSION, Device, answers, rarest, tiny_device, write_tiny_model

from pipeline.artifacts import Place
from pipeline.validate.judge import Terms, judge_with
from pipeline.validate.predictions import read_predictions
from targets.device.model.golden import read_golden, write_golden
from targets.device.model.manifest import read_manifest
from targets.device.tensorrt import passport as passports

__all__ = ["library", "model"]
FILES = {"model.engine", "passport.json", "layers.json", "golden.npz", "report.json", "predictions.npz"}


@pytest.fixture
def tiny(tmp_path: Path, library: Path) -> Device:
    return tiny_device(tmp_path / "device", library)


def test_the_first_start_builds_proves_and_serves_the_next_one_reuses(tiny: Device, model: Path) -> None:
    with ready(model, tiny) as running:
        assert phases(running) == ["open", "build", "golden", "gate"]
        first = logits_of(running)
        np.testing.assert_allclose(first, answers(model, images(11, seed=4)), atol=1e-5)
        _, metadata = get(running, "/v2/models/tiny")
        assert metadata["platform"] == "tensorrt_plan"
        assert metadata["parameters"]["runs_on"] == f"tensorrt {VERSION} on sm_87"
        assert metadata["parameters"]["variant"] == "main"
        assert b'edge_deploy_start_phase_seconds{phase="build"}' in raw(running, "/metrics")
        assert f'runs_on="tensorrt {VERSION} on sm_87"'.encode() in raw(running, "/metrics")
        _, status = get(running, "/status.json")
        assert (status["proof"]["place"], status["proof"]["images"]) == ("device", COUNT)
        assert (status["progress"], status["remark"]) == (None, "")
        (built,) = [entry for entry in running.logged() if entry["message"] == "the engine is built"]
        assert built["layers"] == {"int8": 4}
        assert running.stop() == 0
    (entry,) = tiny.entries
    assert {path.name for path in entry.iterdir()} == FILES
    assert tiny.left_over == []
    with ready(model, tiny) as running:
        assert phases(running) == ["open"]
        np.testing.assert_array_equal(logits_of(running), first)
        (judged,) = [entry for entry in running.logged() if entry["message"] == "judged"]
        # With the engine's own logits, and so exactly.
        assert "on sm_87, all classes must agree, and logits to" in judged["golden"]
        assert get(running, "/proof")[1]["state"] == "proven"


def test_the_proof_is_the_hosts_when_it_judges_the_answers_again(tiny: Device, model: Path, tmp_path: Path) -> None:
    with ready(model, tiny) as running:
        status, proof = get(running, "/proof")
        (tmp_path / "predictions.npz").write_bytes(raw(running, "/proof/predictions.npz"))
    assert (status, proof["schema"], proof["state"], proof["precision"]) == (200, 1, "proven", "int8")
    assert proof["passport"] == asdict(passports.read(tiny.entries[0]))
    stored = read_predictions(tmp_path / "predictions.npz")
    assert (stored.instruction_set, stored.runtime) == ("sm_87", f"tensorrt {VERSION}")
    again = judge_with(
        model / "shard.zip", stored, target="orin-jp61", place=Place.DEVICE, terms=Terms(max_drop=1.0, gate_looks=1)
    )
    expected = json.loads(json.dumps(asdict(again)))
    assert (expected.pop("gate_looks"), expected.pop("groups"), expected.pop("expected_accuracy")) == (1, [], None)
    assert proof["report"] == expected
    assert json.loads((tiny.entries[0] / "report.json").read_text()) == expected


def test_while_it_builds_it_lives_and_says_how_far_it_is(tiny: Device, model: Path) -> None:
    running = start(model, model.parent / "log", **settings(tiny, STAND_IN_BUILD="sleep 60"))
    try:
        until(lambda: "build" in phases(running), running)
        until(lambda: "; 0 s" not in get(running, "/v2/health/ready")[1]["error"], running)
        status, answer = get(running, "/v2/health/ready")
        assert (status, answer["loading"]) == (503, True)
        assert answer["error"].startswith(f"building the int8 engine with TensorRT {VERSION} for Orin, which takes ")
        assert answer["error"].endswith(" s so far")
        assert get(running, "/v2/health/live")[0] == 200
        assert get(running, "/v2/models/tiny")[1]["parameters"]["runs_on"] == "tensorrt"
        _, proof = get(running, "/proof")
        assert (proof["state"], proof["report"], proof["passport"]) == ("pending", None, None)
        assert "building the int8 engine" in proof["reason"]
        assert get(running, "/proof/predictions.npz")[0] == 404
        _, told = get(running, "/status.json")
        assert (told["progress"]["phase"], told["proof"]["place"]) == ("build", "simulated")
        assert told["progress"]["seconds"] >= 0.5
        assert b'edge_deploy_start_phase_seconds{phase="build"}' in raw(running, "/metrics")
        # Asked to end, it does, with all that it has begun.
        children = children_of(running.process.pid)
        assert len(children) == 1
        assert running.stop() == 0
        assert not exists(children[0])
        assert not [entry for entry in running.logged() if entry["level"] == "error"]
    finally:
        running.process.kill()
        running.process.wait(60)
    assert (tiny.entries, tiny.left_over) == ([], [])


@pytest.mark.slow
def test_a_build_that_takes_long_is_not_taken_for_one_that_hangs(tiny: Device, model: Path) -> None:
    """After four times REQUEST_SECONDS a model that hangs while it answers ends the process."""
    with ready(model, tiny, STAND_IN_BUILD="sleep 6", REQUEST_SECONDS=1) as running:
        (built,) = [entry for entry in running.logged() if entry["message"] == "the engine is built"]
        assert built["seconds"] >= 6
        logits_of(running)


@pytest.mark.slow
def test_a_start_that_is_killed_leaves_nothing_to_be_taken_for_an_engine(tiny: Device, model: Path) -> None:
    with ready(model, tiny):
        pass
    shutil.rmtree(tiny.entries[0])
    running = start(model, model.parent / "log", **settings(tiny, STAND_IN_BUILD="sleep 60"))
    until(lambda: bool(children_of(running.process.pid)), running)
    until(lambda: bool(tiny.left_over), running)
    (child,) = children_of(running.process.pid)
    running.process.kill()
    running.process.wait(60)
    deadline = time.monotonic() + 30
    while exists(child):
        assert time.monotonic() < deadline, "the builder goes on although nobody waits for it"
        time.sleep(0.05)
    assert tiny.entries == []
    assert len(tiny.left_over) == 1
    with ready(model, tiny) as running:
        (built,) = [entry for entry in running.logged() if entry["message"] == "the engine is built"]
        assert "Timings of an earlier build are used." in built["warnings"]
    assert tiny.left_over == []
    assert len(tiny.entries) == 1


def with_passport(entry: Path, **changes: Any) -> None:
    replace(passports.read(entry), **changes).write(entry)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed engine": (lambda entry: flip(entry / "model.engine"), "engine_sha256 of "),
    "an engine that is cut short": (lambda entry: (entry / "model.engine").write_bytes(b""), "engine_sha256 of "),
    "no engine": (lambda entry: (entry / "model.engine").unlink(), "is missing, for which the passport has"),
    "no passport": (lambda entry: (entry / "passport.json").unlink(), "has no passport"),
    "a damaged passport": (lambda entry: (entry / "passport.json").write_text("{"), "is damaged"),
    "another GPU": (lambda entry: with_passport(entry, gpu_name="Xavier"), "gpu_name is 'Orin' here, but the engine"),
    "another TensorRT": (lambda entry: with_passport(entry, tensorrt="10.3.0.26"), "tensorrt is '10.3.0.30' here"),
    "a newer driver": (lambda entry: with_passport(entry, driver="540.4"), "driver is 'none' here"),
    "another precision": (lambda entry: with_passport(entry, precision="fp16"), "precision is 'int8' in the manifest"),
    "another DLA": (lambda entry: with_passport(entry, dla_core=1), "dla_core is none in the manifest"),
    "another model": (lambda entry: with_passport(entry, onnx_sha256="0" * 64), "onnx_sha256 is"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "reason"), [pytest.param(*each, id=name) for name, each in DAMAGE.items()])
def test_an_engine_that_does_not_belong_is_built_anew_and_the_log_says_why(
    tiny: Device, model: Path, damage: Callable[[Path], object], reason: str
) -> None:
    with ready(model, tiny):
        pass
    (entry,) = tiny.entries
    damage(entry)
    with ready(model, tiny) as running:
        said = [entry["reason"] for entry in running.logged() if entry["message"] == "the engine is rebuilt"]
        assert len(said) == 1
        assert reason in said[0]
        # Another engine is another proof.
        assert phases(running) == ["open", "build", "golden", "gate"]
        logits_of(running)
    assert tiny.entries == [entry]
    assert {path.name for path in entry.iterdir()} == FILES


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predictions.npz", "golden.npz", "report.json"])
def test_a_proof_that_is_damaged_is_made_again_by_the_engine_that_is_there(
    tiny: Device, model: Path, name: str
) -> None:
    with ready(model, tiny):
        pass
    engine = tiny.entries[0] / "model.engine"
    before = engine.stat().st_ino
    if name == "golden.npz":
        (tiny.entries[0] / name).unlink()
    else:
        (tiny.entries[0] / name).write_bytes(b"PK\3\4")
    with ready(model, tiny) as running:
        assert "build" not in phases(running)
        assert get(running, "/proof")[1]["state"] == "proven"
    assert engine.stat().st_ino == before


@pytest.mark.slow
def test_an_engine_that_fails_its_gate_is_not_served_and_the_figures_are_said(tiny: Device, model: Path) -> None:
    """Also at the next start, which need not find it out again."""
    spoilt = {"STAND_IN_SPOILS": rarest(model)}
    for expected in (["open", "build", "golden", "gate"], ["open"]):
        with refused(model, tiny, **spoilt) as running:
            reason = reason_of(running)
            assert phases(running) == expected
            assert f"the int8 engine of tensorrt {VERSION} on sm_87 is not proven: the gate says fail: " in reason
            assert "100.00% to 87.75% on 400 images, a drop of 12.25 points [9." in reason
            assert ", 1 allowed." in reason
            assert "let the recipe allow fp16" in reason
            status, proof = get(running, "/proof")
            assert (status, proof["state"], proof["reason"]) == (200, "failed", reason)
            assert (proof["report"]["verdict"], proof["report"]["lost"]) == ("fail", 49)
            with np.load(io.BytesIO(raw(running, "/proof/predictions.npz"))) as file:
                assert file["logits"].shape == (COUNT, 4)
            assert get(running, "/v2/models/tiny/ready")[0] == 503


def test_golden_images_that_do_not_match_refuse_it_whatever_the_gate_says(tiny: Device, model: Path) -> None:
    pixels, logits = read_golden(model)
    write_golden(model, pixels, np.roll(logits, 1, axis=1))
    with refused(model, tiny) as running:
        assert "is not proven: 20 golden images do not match: 0.0% of the classes agree" in reason_of(running)
        _, proof = get(running, "/proof")
        assert (proof["state"], proof["report"]["verdict"]) == ("failed", "pass")


@pytest.mark.slow
def test_fp16_takes_the_place_of_int8_where_the_recipe_allows_it_and_everything_says_so(
    tiny: Device, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    write_tiny_model(model, fallback="fp16")
    spoilt = {"STAND_IN_SPOILS": rarest(model)}
    for expected in (["open", "build", "golden", "gate"] * 2, ["open"] * 2):
        with ready(model, tiny, **spoilt) as running:
            assert phases(running) == expected
            _, metadata = get(running, "/v2/models/tiny")
            facts = metadata["parameters"]
            assert (facts["variant"], facts["precision"]) == ("fp16", "fp16")
            assert facts["model_sha256"] == read_manifest(model / "fp16").model_sha256
            why = "instead of int8, as the recipe allows: the int8 engine of tensorrt"
            assert why in facts["variant_reason"]
            _, proof = get(running, "/proof")
            assert (proof["state"], proof["variant"], proof["precision"]) == ("proven", "fp16", "fp16")
            assert proof["passport"]["precision"] == "fp16"
            assert "It is built in fp16 instead of int8" in proof["reason"]
            assert "a drop of 12.25 points" in proof["reason"]
            _, status = get(running, "/status.json")
            assert (status["model"]["variant"], status["model"]["precision"]) == ("fp16", "fp16")
            assert "the gate says fail" in status["remark"]
            warned = [entry for entry in running.logged() if entry["level"] == "warning"]
            assert [entry["message"] for entry in warned] == ["model chosen", "served with reservations"]
            assert b'precision="fp16"' in raw(running, "/metrics")
            assert b'precision="int8"' not in raw(running, "/metrics")
            np.testing.assert_allclose(logits_of(running), answers(model / "fp16", images(11, seed=4)), atol=1e-5)
    assert len(tiny.entries) == 2


@pytest.mark.slow
def test_too_few_images_to_tell_stop_it_or_not_as_the_recipe_says(tiny: Device, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "stop", count=60, fallback="fp16")
    with refused(tmp_path / "stop", tiny) as running:
        reason = reason_of(running)
        assert "the fp16 engine of tensorrt" in reason
        assert "Before that, the int8 engine of tensorrt" in reason
        assert reason.count("the gate says undecided: ") == 2
        assert reason.count("images would give a 50 % chance of a pass.") == 2
    write_tiny_model(tmp_path / "package", count=60, undecided="package", fallback="fp16")
    with ready(tmp_path / "package", tiny) as running:
        # The same engine and shard: judged in an instant, by the other terms.
        assert phases(running) == ["open"]
        _, proof = get(running, "/proof")
        assert (proof["state"], proof["variant"], proof["report"]["verdict"]) == ("failed", "main", "undecided")
        assert "The gate is undecided; the model is served as the recipe allows." in proof["reason"]


@pytest.mark.slow
def test_an_engine_that_no_longer_repeats_itself_is_not_served(tiny: Device, model: Path) -> None:
    with ready(model, tiny):
        pass
    pixels, logits = read_golden(tiny.entries[0])
    write_golden(tiny.entries[0], pixels, logits + np.float32(0.5))
    with refused(model, tiny) as running:
        reason = reason_of(running)
        assert "the engine does not reproduce the logits of its proof: 20 golden images do not match" in reason
        assert f"remove {tiny.entries[0]} to build and prove it again" in reason


@pytest.mark.slow
def test_two_on_one_volume_build_once(tiny: Device, model: Path, tmp_path: Path) -> None:
    given = settings(tiny, STAND_IN_BUILD="sleep 1.5")
    with serving(model, tmp_path / "log1", **given) as one, serving(model, tmp_path / "log2", **given) as two:
        assert len(tiny.entries) == 1
        np.testing.assert_array_equal(logits_of(one), logits_of(two))
    both = [start(model, tmp_path / f"log{number}", **{**given, "ENGINE_CACHE": tmp_path / "c"}) for number in (3, 4)]
    try:
        for each in both:
            each.wait_for("listening")
        waiting = "waiting for another process that builds or proves an engine in"
        until(lambda: any(waiting in get(each, "/v2/health/ready")[1].get("error", "") for each in both), both[0])
        for each in both:
            each.wait_for("ready")
        entries = [entry for each in both for entry in each.logged()]
        assert len([entry for entry in entries if entry["message"] == "the engine is built"]) == 1
        assert sorted(entry["is_new"] for entry in entries if entry["message"] == "judged") == [False, True]
        np.testing.assert_array_equal(logits_of(both[0]), logits_of(both[1]))
    finally:
        for each in both:
            each.process.kill()
            each.process.wait(60)


MISSING: dict[str, tuple[dict[str, str], str]] = {
    "TensorRT": ({"PYTHONPATH": ""}, r"TensorRT cannot be imported: .*images that contain it.*--runtime nvidia"),
    "a cache": ({"ENGINE_CACHE": "/dev/null/engines"}, "the engine cache /dev/null/engines cannot be used: .*volume"),
    "room": ({"STAND_IN_BUILD": "disk"}, "No space left on device.*The disk is full: free some space, or set ENGINE_"),
    "memory": (
        {"STAND_IN_BUILD": "signal SIGKILL"},
        r"was killed, probably by the kernel because memory .* MiB of memory ",
    ),
    "memory of the GPU": (
        {"STAND_IN_BUILD": "refuse Requested amount of GPU memory could not be allocated"},
        r"cannot build .*amount of GPU memory could not be allocated\. Now \d+ of \d+ MiB of memory are free",
    ),
    "a kernel": ({"STAND_IN_BUILD": "refuse no implementation"}, r"in int8: no implementation\.$"),
    "its mind": (
        {"STAND_IN_BUILD": "signal SIGSEGV"},
        "ended by signal SIGSEGV; TensorRT 10.3.0.30 reported: nothing",
    ),
    "a word": ({"STAND_IN_BUILD": "raise"}, "ended with status 1; TensorRT 10.3.0.30 reported: Traceback.*a bug"),
}


@pytest.mark.parametrize(("changes", "reason"), [pytest.param(*each, id=name) for name, each in MISSING.items()])
def test_what_is_missing_is_said_and_the_server_lives_on(
    tiny: Device, model: Path, changes: dict[str, str], reason: str
) -> None:
    with refused(model, tiny, **changes) as running:
        told = reason_of(running)
        assert re.search(reason, told, re.DOTALL), told
        _, proof = get(running, "/proof")
        assert (proof["state"], proof["reason"], proof["report"]) == ("failed", told, None)
    assert not tiny.cache.exists() or (tiny.entries, tiny.left_over) == ([], [])


@pytest.mark.skipif(Path("/dev/nvidiactl").exists() or Path("/dev/nvhost-gpu").exists(), reason="there is a GPU here")
def test_without_a_gpu_the_gpu_is_what_is_missing(tiny: Device, model: Path) -> None:
    with refused(model, tiny, LD_LIBRARY_PATH="") as running:
        told = reason_of(running)
        assert "CUDA error" in told or "libcudart" in told
        assert "TensorRT cannot be imported" not in told
    with refused(model, tiny, LD_LIBRARY_PATH="", PYTHONPATH="") as running:
        told = reason_of(running)
        assert "TensorRT cannot be imported" in told
        assert "In addition, " in told
        assert "libcudart" in told or "CUDA error" in told


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no terms": (lambda folder: (folder / "first_start.json").unlink(), "has no first_start.json"),
    "no shard": (lambda folder: (folder / "shard.zip").unlink(), "there is no shard"),
    "a damaged shard": (lambda folder: (folder / "shard.zip").write_bytes(b"PK"), "is truncated or damaged"),
    "a changed model": (lambda folder: flip(folder / "model.onnx"), "is not the model its manifest describes"),
    "a report of another model": (
        lambda folder: (folder / "report.json").write_text(
            (folder / "report.json").read_text().replace(read_manifest(folder).model_sha256, "1" * 64)
        ),
        "is about the model 1111111111111111",
    ),
    "another generation": (
        lambda folder: replace(read_manifest(folder), runtime_version="8.5.2").write(folder),
        f"TensorRT {VERSION} is installed, but the model's file was written for 8.5.2, which differs in format",
    ),
    "an option that is none": (
        lambda folder: replace(read_manifest(folder), session_options={"max_batch": "many"}).write(folder),
        "max_batch is 'many'",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), [pytest.param(*each, id=name) for name, each in BROKEN.items()])
def test_an_image_that_is_broken_says_so_before_it_builds(
    tiny: Device, model: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(model)
    with refused(model, tiny) as running:
        assert reason in reason_of(running)
        assert "build" not in phases(running)


def children_of(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task")
    return [
        int(child) for task in children.iterdir() for child in (task / "children").read_text(encoding="ascii").split()
    ]


def state_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][:1]
    except FileNotFoundError:
        return ""


def exists(process: int) -> bool:
    """A process that nobody has waited for yet has ended all the same."""
    return state_of(process) not in ("", "Z")
