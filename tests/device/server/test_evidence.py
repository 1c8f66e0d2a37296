"""`GET /proof` where nothing is proven at the start, and who may ask for it."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from device_server import answering
from tiny_package import TinyPackage, write_tiny_package

from targets.device.model.golden import read_golden, write_golden

TOKEN = "a-token-of-many-letters"


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "artifact")


def with_report(tiny: TinyPackage, **changes: object) -> None:
    raw = {**asdict(tiny.report), **changes}
    (tiny.folder / "report.json").write_text(json.dumps(raw))


def test_on_a_cpu_it_is_the_report_that_came_with_the_model(tiny: TinyPackage) -> None:
    with_report(tiny)
    with answering(tiny.folder) as client:
        response = client.get("/proof")
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-store"
        proof = response.json()
        assert {
            name: proof[name] for name in ("schema", "state", "reason", "variant", "passport", "measurements")
        } == {
            "schema": 1,
            "state": "proven",
            "reason": "",
            "variant": "main",
            "passport": None,
            "measurements": None,
        }
        assert (proof["report"]["place"], proof["report"]["images"]) == ("host", 120)
        missing = client.get("/proof/predictions.npz")
        assert missing.status_code == 404
        assert "there are no predictions of this device" in missing.json()["error"]


def test_a_report_that_is_no_pass_is_no_proof(tiny: TinyPackage) -> None:
    with_report(tiny, verdict="undecided")
    with answering(tiny.folder) as client:
        assert client.get("/v2/health/ready").status_code == 200
        proof = client.get("/proof").json()
        assert (proof["state"], proof["report"]["verdict"]) == ("failed", "undecided")
        assert "gate report is undecided" in proof["reason"]


def test_without_a_report_nobody_has_judged_it(tiny: TinyPackage) -> None:
    with answering(tiny.folder) as client:
        proof = client.get("/proof").json()
        assert (proof["state"], proof["report"]) == ("pending", None)
        assert "this model has no gate report" in proof["reason"]


def test_golden_images_that_do_not_match_are_a_failure(tiny: TinyPackage) -> None:
    with_report(tiny)
    pixels, logits = read_golden(tiny.folder)
    write_golden(tiny.folder, pixels, logits + 1)
    with answering(tiny.folder) as client:
        proof = client.get("/proof").json()
        assert proof["state"] == "failed"
        assert proof["reason"] == client.get("/v2/health/ready").json()["error"]


def test_a_model_that_cannot_be_opened_is_a_failure(tmp_path: Path) -> None:
    with answering(tmp_path) as client:
        proof = client.get("/proof").json()
        assert (proof["state"], proof["report"], proof["variant"]) == ("failed", None, None)
        assert "it has no manifest.json" in proof["reason"]


@pytest.mark.parametrize("path", ["/proof", "/proof/predictions.npz"])
def test_it_asks_for_the_token_of_the_metrics(tiny: TinyPackage, tmp_path: Path, path: str) -> None:
    (tmp_path / "tokens").write_text(TOKEN + "\n")
    with answering(tiny.folder, token_file=tmp_path / "tokens") as client:
        assert client.get(path).status_code == client.get("/metrics").status_code == 401
        assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code in (200, 404)
        assert client.post(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 405
