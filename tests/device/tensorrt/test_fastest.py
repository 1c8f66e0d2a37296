"""First starts that build, prove and time every precision, as processes around the stand-ins of `test_trt_start`.

The C library's clock moves 1.5 ms for each run, and more for precisions that STAND_IN_SLOW names: what is timed is
exact. That shows how we compare and decide, nothing of what a GPU takes.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_server import Running, images, start, until
from tensorrt_server import flip, get, logits_of, phases, raw, ready, reason_of, refused, settings
from tiny_cuda import library
from tiny_tensorrt import VERSION, Device, answers, rarest, tiny_device, write_tiny_model

from targets.device.model.manifest import read_manifest
from targets.device.tensorrt.passport import read as read_passport

__all__ = ["library"]
EACH = ["open", "build", "golden", "gate"]
ON = f"on Orin with TensorRT {VERSION}"


@pytest.fixture
def tiny(tmp_path: Path, library: Path) -> Device:
    return tiny_device(tmp_path / "device", library)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "model", fallback="fastest")
    return tmp_path / "model"


def slow(**microseconds: int) -> dict[str, str]:
    return {"STAND_IN_SLOW": json.dumps(microseconds)}


def kept(device: Device) -> list[Path]:
    return sorted(device.cache.glob("comparison-*.json"))


def compared(running: Running) -> dict[str, Any]:
    found: dict[str, Any] = get(running, "/proof")[1]["comparison"]
    return found


def medians(comparison: dict[str, Any]) -> dict[str, float | None]:
    return {rival["precision"]: rival["median_ms"] for rival in comparison["rivals"]}


@pytest.mark.slow
def test_the_fastest_of_those_that_pass_is_served_and_every_document_says_why(tiny: Device, model: Path) -> None:
    text = f"fp32: 1.5 ms against 2 ms of int8 and 1.6 ms of fp16, timed in turn {ON}"
    with ready(model, tiny, **slow(int8=500, fp16=100)) as running:
        assert phases(running) == [*EACH * 3, "compare"]
        facts = get(running, "/v2/models/tiny")[1]["parameters"]
        assert (facts["variant"], facts["precision"], facts["variant_reason"]) == ("fp32", "fp32", text)
        assert facts["model_sha256"] == read_manifest(model / "fp32").model_sha256
        _, proof = get(running, "/proof")
        assert (proof["state"], proof["variant"], proof["precision"]) == ("proven", "fp32", "fp32")
        assert proof["passport"]["precision"] == "fp32"
        comparison = proof["comparison"]
        assert (comparison["text"], comparison["chosen"], comparison["batch"]) == (text, "fp32", 1)
        assert medians(comparison) == {"int8": 2.0, "fp16": pytest.approx(1.6), "fp32": 1.5}
        assert comparison["runs"] == 600
        _, status = get(running, "/status.json")
        assert (status["model"]["comparison"], status["remark"]) == (text, "")
        said = [entry["reason"] for entry in running.logged() if entry["message"] == "model chosen"]
        assert said[-1] == text
        np.testing.assert_allclose(logits_of(running), answers(model / "fp32", images(11, seed=4)), atol=1e-5)
    assert len(tiny.entries) == 3
    # Though everything is as fast now: it was timed, and is not timed again.
    with ready(model, tiny) as running:
        assert phases(running) == ["open"]
        assert compared(running) == comparison
        assert get(running, "/v2/models/tiny")[1]["parameters"]["variant_reason"] == text
        (judged,) = [entry for entry in running.logged() if entry["message"] == "judged"]
        assert judged["is_new"] is False


@pytest.mark.slow
def test_a_tie_goes_to_the_smaller_precision(tiny: Device, model: Path) -> None:
    with ready(model, tiny, **slow(int8=60, fp16=30)) as running:
        facts = get(running, "/v2/models/tiny")[1]["parameters"]
        assert (facts["variant"], facts["precision"]) == ("main", "int8")
        assert facts["variant_reason"] == (
            "int8: 1.56 ms against 1.53 ms of fp16 and 1.5 ms of fp32 (as fast within 5 %, and smaller), timed in "
            f"turn {ON}"
        )


@pytest.mark.slow
def test_an_engine_that_does_not_pass_is_left_out_with_its_reason(tiny: Device, model: Path) -> None:
    """Though it is the fastest."""
    given = {"STAND_IN_SPOILS": rarest(model), **slow(fp16=100, fp32=500)}
    for expected in ([*EACH * 3, "compare"], ["open"]):
        with ready(model, tiny, **given) as running:
            assert phases(running) == expected
            _, proof = get(running, "/proof")
            assert (proof["state"], proof["precision"]) == ("proven", "fp16")
            assert proof["comparison"]["text"] == f"fp16: 1.6 ms against 2 ms of fp32, timed in turn {ON}"
            assert medians(proof["comparison"])["int8"] is None
            assert proof["reason"].startswith(
                f"Excluded from the comparison: the int8 engine of tensorrt {VERSION} on sm_87"
            )
            assert "the gate says fail" in proof["reason"]
            assert "a drop of 12.25 points" in proof["reason"]
            assert get(running, "/status.json")[1]["remark"] == proof["reason"]
            assert "served with reservations" in [entry["message"] for entry in running.logged()]


@pytest.mark.slow
def test_one_alone_that_passes_is_served_untimed(tiny: Device, model: Path) -> None:
    given = {"STAND_IN_SPOILS": rarest(model), "STAND_IN_SPOILT": "int8 fp16"}
    for expected in (EACH * 3, ["open"]):
        with ready(model, tiny, **given) as running:
            assert phases(running) == expected
            assert compared(running)["text"] == (f"fp32: the only engine proven {ON}, so none was timed")
            assert get(running, "/proof")[1]["reason"].count("Excluded from the comparison: ") == 2


@pytest.mark.slow
def test_where_none_passes_it_is_not_ready_and_says_every_reason(tiny: Device, model: Path) -> None:
    given = {"STAND_IN_SPOILS": rarest(model), "STAND_IN_SPOILT": "int8 fp16 fp32"}
    for expected in (EACH * 3, ["open"] * 3):
        with refused(model, tiny, **given) as running:
            reason = reason_of(running)
            assert phases(running) == expected
            assert reason.startswith("no engine of this image is proven: the int8 engine of ")
            assert reason.count("the gate says fail: ") == 3
            assert reason.endswith("Build the image in another precision or with a larger shard.")
            _, proof = get(running, "/proof")
            assert (proof["state"], proof["variant"], proof["comparison"]) == ("failed", "main", None)
            assert proof["report"]["verdict"] == "fail"
    assert kept(tiny) == []


@pytest.mark.slow
def test_what_cannot_be_built_or_answers_no_numbers_is_left_out(tiny: Device, model: Path) -> None:
    """And a build that failed is tried at the next start, which times nothing anew unless it succeeds."""
    given = {
        "STAND_IN_BUILD": "refuse no implementation", "STAND_IN_BUILD_OF": "int8",
        "STAND_IN_SPOILS": "nan", "STAND_IN_SPOILT": "fp16",
    }  # fmt: skip
    with ready(model, tiny, **given) as running:
        reason = get(running, "/proof")[1]["reason"]
        assert "Excluded from the comparison: the int8 engine cannot be built: " in reason
        assert "no implementation." in reason
        assert "the fp16 engine is not proven: " in reason
        assert "images are not finite" in reason
        assert compared(running)["chosen"] == "fp32"
    with ready(model, tiny, **{**given, "STAND_IN_BUILD": ""}) as running:
        assert "compare" in phases(running)
        assert compared(running)["chosen"] == "int8"
        assert medians(compared(running)) == {"int8": 1.5, "fp16": None, "fp32": 1.5}
    with refused(model, tiny, STAND_IN_BUILD="refuse no way", ENGINE_CACHE=model.parent / "other") as running:
        reason = reason_of(running)
        assert reason.startswith("no engine of this image is proven: the int8 engine cannot be built: ")
        assert reason.count("cannot be built: ") == 3


@pytest.mark.long
def test_one_that_is_undecided_is_compared_with_its_like_alone(tiny: Device, tmp_path: Path) -> None:
    """It may be served as the recipe says, but not in the place of one that is proven."""
    model = tmp_path / "mixed"
    write_tiny_model(model, max_drop=12.25, undecided="package", fallback="fastest")
    with ready(model, tiny, STAND_IN_SPOILS=rarest(model), **slow(fp16=100, fp32=500)) as running:
        _, proof = get(running, "/proof")
        assert (proof["state"], proof["precision"]) == ("proven", "fp16")
        assert medians(proof["comparison"])["int8"] is None
        assert (
            "Excluded from the comparison: the int8 engine is not proven, the gate is undecided: " in proof["reason"]
        )
    write_tiny_model(tmp_path / "few", count=60, undecided="package", fallback="fastest")
    with ready(tmp_path / "few", tiny, ENGINE_CACHE=tmp_path / "other", **slow(int8=500)) as running:
        _, proof = get(running, "/proof")
        assert (proof["state"], proof["precision"], proof["report"]["verdict"]) == ("failed", "fp16", "undecided")
        assert "The gate is undecided; the model is served as the recipe allows." in proof["reason"]
        assert medians(proof["comparison"])["int8"] == 2.0


@pytest.mark.long
def test_a_damaged_record_is_made_anew(tiny: Device, model: Path) -> None:
    with ready(model, tiny, **slow(fp16=500, fp32=500)) as running:
        assert compared(running)["chosen"] == "int8"
    kept(tiny)[0].write_text("{")
    with ready(model, tiny, **slow(int8=500, fp32=500)) as running:
        assert phases(running) == [*["open"] * 3, "compare"]
        assert compared(running)["chosen"] == "fp16"


@pytest.mark.long
def test_another_engine_is_another_comparison(tiny: Device, model: Path) -> None:
    """Also where the one that was chosen turns out to be damaged, and is built anew."""
    with ready(model, tiny, **slow(fp16=500, fp32=500)):
        pass
    (entry,) = [each for each in tiny.entries if read_passport(each).precision == "int8"]
    flip(entry / "model.engine")
    with ready(model, tiny, STAND_IN_NUMBER="2", **slow(int8=500, fp32=500)) as running:
        assert phases(running) == [*EACH, *["open"] * 3, "compare"]
        assert compared(running)["chosen"] == "fp16"
    assert len(kept(tiny)) == 2
    (entry,) = [each for each in tiny.entries if read_passport(each).precision == "fp16"]
    flip(entry / "model.engine")
    with ready(model, tiny, STAND_IN_BUILD="refuse no way", **slow(fp32=500)) as running:
        assert compared(running)["chosen"] == "int8"
        assert "the fp16 engine cannot be built: " in get(running, "/proof")[1]["reason"]


@pytest.mark.slow
def test_other_terms_are_judged_anew_by_the_times_that_are_kept(tiny: Device, model: Path) -> None:
    with ready(model, tiny, **slow(int8=500, fp32=500)) as running:
        before = compared(running)
    terms = json.loads((model / "first_start.json").read_text())
    (model / "first_start.json").write_text(json.dumps({**terms, "max_drop": 2.0}))
    with ready(model, tiny) as running:
        assert phases(running) == ["open"] * 3
        after = compared(running)
        assert (after["terms"]["max_drop"], medians(after)) == (2.0, medians(before))


@pytest.mark.slow
def test_it_can_be_asked_to_end_while_it_compares(tiny: Device, model: Path) -> None:
    running = start(model, model.parent / "log", **settings(tiny, STAND_IN_DELAY="0.005"))
    try:
        until(lambda: "compare" in phases(running), running)
        status, answer = get(running, "/v2/health/ready")
        assert (status, answer["loading"]) == (503, True)
        assert answer["error"].startswith("timing the engines in int8 and fp16 and fp32 in turn")
        assert b'edge_deploy_start_phase_seconds{phase="compare"}' in raw(running, "/metrics")
        asked = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - asked < 10
    finally:
        running.process.kill()
        running.process.wait(60)
    assert kept(tiny) == []


@pytest.mark.slow
def test_without_leave_nothing_but_the_main_model_is_built(tiny: Device, model: Path) -> None:
    """Whatever lies in the image."""
    terms = json.loads((model / "first_start.json").read_text())
    (model / "first_start.json").write_text(json.dumps({**terms, "fallback": "none"}))
    with ready(model, tiny, **slow(int8=500)) as running:
        assert phases(running) == EACH
        assert get(running, "/v2/models/tiny")[1]["parameters"]["variant"] == "main"
        assert compared(running) is None
