"""The status page from the real server of a real artifact, in a real Chromium."""

from pathlib import Path

import pytest
from chromium import Page
from device_server import answering, http_request, serving
from malformed_requests import GOOD
from status_server import wait_for_text, wait_for_word
from tiny_package import write_tiny_package

from pipeline.validate.published import report_json

pytestmark = pytest.mark.browser
TOKEN = "0123456789abcdef" * 2


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """As it lies in an image: with the gate's report."""
    tiny = write_tiny_package(tmp_path / "artifact")
    (tiny.folder / "report.json").write_text(report_json(tiny.report))
    return tiny.folder


@pytest.mark.slow
def test_it_tells_of_the_model_its_proof_and_the_requests(page: Page, artifact: Path, tmp_path: Path) -> None:
    with serving(artifact, tmp_path / "log") as running:
        page.open(f"http://{running.url}/")
        wait_for_word(page, "Ready")
        assert page.text("h1") == "tiny 0.1.0"
        wait_for_text(page, "#verdict", "Passed the gate")
        for _ in range(3):
            assert running.ask(http_request(GOOD))[0] == 200
        assert running.ask(http_request(b"{"))[0] == 400
        wait_for_text(page, "#count", "of 3 requests")
        assert page.problems == []
    wait_for_word(page, "No response")


def test_with_a_token_figures_are_shown_to_those_who_have_it(page: Page, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(TOKEN + "\n")
    with serving(artifact, tmp_path / "log", TOKEN_FILE=tmp_path / "tokens") as running:
        page.open(f"http://{running.url}/")
        wait_for_text(page, "body", "token")
        assert "tiny" not in page.text("body")
        assert running.ask(http_request(GOOD))[0] == 401
        assert running.ask(http_request(GOOD, f"Authorization: Bearer {TOKEN}"))[0] == 200


def test_a_report_about_another_model_keeps_the_server_unready(artifact: Path, tmp_path: Path) -> None:
    report = (artifact / "report.json").read_text()
    manifest = (artifact / "manifest.json").read_text()
    (artifact / "report.json").write_text(report.replace(report.split('"artifact_sha256": "')[1][:64], "0" * 64))
    assert (artifact / "manifest.json").read_text() == manifest
    with answering(artifact) as client:
        answer = client.get("/v2/health/ready")
        assert answer.status_code == 503
        assert "is about the model 0000000000000000..." in answer.json()["error"]
