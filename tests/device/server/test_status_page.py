"""The status page in a real Chromium, beside a server that answers as each test wants it to."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from chromium import Page
from status_server import STATUS, StatusServer, wait_for_polls, wait_for_text, wait_for_word

pytestmark = pytest.mark.browser
MARKUP = "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 1'>"


def facts(page: Page) -> dict[str, str]:
    """Every term on the page with what is said of it."""
    pairs = page.value(
        "[...document.querySelectorAll('dl > div')].map((row) => "
        "[row.querySelector('dt').innerText, row.querySelector('dd').innerText.replace(/\\s+/g, ' ').trim()])"
    )
    return {str(term): str(said) for term, said in pairs}


def test_everything_is_told(shown: Page) -> None:
    assert shown.text("h1") == "resnet20 0.1.0"
    assert shown.text("#state").split("\n\n") == ["Ready", "The model is serving requests."]
    assert shown.text("#verdict") == "✓ Passed the gate"
    assert shown.text("#count") == "of 1,000 requests"
    assert facts(shown) == {
        "Answered": "1,204,518",
        "Refused": "12",
        "Waiting": "2",
        "Connections": "3",
        "Memory": "61.4 MiB",
        "Uptime": "3 d 4 h",
        "Top-1": "91.73 % → 91.49 % float model → this artifact",
        "Drop": "+0.24 points 95 % interval [−0.22, +0.86]",
        "Allowed": "1 point",
        "Images": "846 the class of 1.42 % changed",
        "Worst class": "cat, drop +2.35 points",
        "Measured": "on the building host onnxruntime 1.32.0 on avx512_vnni",
        "p50": "0.334 ms",
        "p90": "0.412 ms",
        "p99": "1.27 ms",
        "Runs on": "onnxruntime 1.32.0 on avx512_vnni",
        "Golden images": f"16 of 16 as expected {STATUS['golden']['reason']}",
        "Built for": "cpu",
        "Precision": "int8, 8-bit weights",
        "Input": "3 × 32 × 32",
        "Classes": "10",
        "SHA-256": STATUS["model"]["model_sha256"],
    }
    assert shown.value("document.title") == "Ready · resnet20"


def test_the_browser_has_nothing_to_complain_of_under_the_policy(shown: Page, status: StatusServer) -> None:
    wait_for_polls(status, 2)
    assert shown.problems == []
    assert {path.split()[0] for path in status.asked} <= {"/", "/status.json"}


def test_the_policy_stops_what_is_not_the_pages_own(shown: Page, status: StatusServer) -> None:
    """So that the test above would see a page that needs more than it is allowed."""
    shown.value(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.stolen = 1'})), 0"
    )
    shown.value("document.querySelector('h1').setAttribute('style', 'color: red'), 0")
    assert shown.value("window.stolen") is None
    assert shown.value("getComputedStyle(document.querySelector('h1')).color") != "rgb(255, 0, 0)"
    assert len([problem for problem in shown.problems if "Content Security Policy" in problem]) == 2


@pytest.mark.parametrize(
    ("changes", "word", "why"),
    [
        pytest.param(
            {"loading": True, "reason": "the model is being loaded"},
            "Starting",
            "The model is being loaded",
            id="loading",
        ),
        pytest.param(
            {"reason": "16 golden images do not match", "golden": None},
            "Not ready",
            "16 golden images do not match",
            id="refused",
        ),
        pytest.param(
            {"reason": "there is no manifest", "model": None, "golden": None, "proof": None, "latency_ms": None},
            "Not ready",
            "There is no manifest",
            id="no-model",
        ),
    ],
)
def test_a_model_that_is_not_ready_is_told_with_the_reason(
    page: Page, status: StatusServer, changes: dict[str, Any], word: str, why: str
) -> None:
    status.says.update(ready=False, **changes)
    page.open(status.url)
    wait_for_word(page, word)
    assert page.text("#why") == why
    assert page.problems == []
    status.says = {**STATUS, "ready": True}
    wait_for_word(page, "Ready")


def test_another_model_in_its_place_is_told_with_the_reason(page: Page, status: StatusServer) -> None:
    reason = "instead of int8, as the recipe allows: the int8 engine is not proven"
    status.says["model"].update(precision="fp16", weight_bits=None, variant="fp16", variant_reason=reason)
    status.says["remark"] = f"It is built in fp16 {reason}."
    page.open(status.url)
    wait_for_word(page, "Ready")
    assert page.text("#precision") == "fp16"
    assert page.text("#variant") == reason
    assert page.text("#why") == f"The model is serving requests. It is built in fp16 {reason}."
    assert page.problems == []


def test_what_is_not_there_is_said_not_to_be(page: Page, status: StatusServer) -> None:
    status.says.update(proof=None, latency_ms=None, golden=None)
    status.says["model"]["weight_bits"] = None
    page.open(status.url)
    wait_for_word(page, "Ready")
    assert "no gate report in this image" in page.text("#unproven")
    assert not page.value("document.getElementById('proven').checkVisibility()")
    assert page.text("#count") == "no request yet"
    said = facts(page)
    assert (said["p50"], said["Golden images"], said["Precision"]) == ("—", "not compared yet", "int8")


@pytest.mark.slow
def test_a_server_that_is_gone_is_told_with_the_time_and_found_again(shown: Page, status: StatusServer) -> None:
    status.stop()
    wait_for_word(shown, "No response")
    assert "the numbers below are from then" in shown.text("#why")
    (time_of_last,) = shown.value(r"document.getElementById('why').textContent.match(/\d\d:\d\d:\d\d/g)")
    assert shown.value("document.title") == "No response · resnet20"
    wait_for_text(shown, "#heard", "ago")
    assert f"The last response was at {time_of_last};" in shown.text("#why")
    assert facts(shown)["Answered"] == "1,204,518"
    status.says["requests"]["answered"] = 7
    status.start()
    wait_for_word(shown, "Ready")
    assert facts(shown)["Answered"] == "7"


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        pytest.param(lambda status: setattr(status, "code", 500), "The server responds with status 500.", id="status"),
        pytest.param(lambda status: setattr(status, "body", b"<html>"), "This page cannot read", id="no-json"),
        pytest.param(lambda status: setattr(status, "body", b"null"), "This page cannot read", id="null"),
        pytest.param(lambda status: status.says.update(proof={}), "This page cannot read", id="half"),
    ],
)
def test_an_answer_that_is_none_is_told_as_such(
    shown: Page, status: StatusServer, break_it: Callable[[StatusServer], None], why: str
) -> None:
    break_it(status)
    wait_for_word(shown, "No response")
    assert why in shown.text("#why")


def test_a_page_that_never_got_an_answer_promises_no_figures(page: Page, status: StatusServer) -> None:
    status.code = 503
    page.open(status.url)
    wait_for_word(page, "No response")
    assert "numbers" not in page.text("#why")
    assert not page.value("document.getElementById('cards').checkVisibility()")
    status.code = 200
    wait_for_word(page, "Ready")


@pytest.mark.slow
def test_a_token_is_asked_for_and_kept_in_memory_alone(page: Page, status: StatusServer) -> None:
    status.token = "s3cret-token"
    page.open(status.url)
    wait_for_word(page, "Token needed")
    assert not page.value("document.getElementById('cards').checkVisibility()")
    assert page.value("document.querySelectorAll('input').length") == 1
    asked = len(status.asked)
    time.sleep(2.5)
    assert len(status.asked) == asked, "a page without token goes on asking"

    page.write("wrong")
    page.press_enter()
    wait_for_text(page, "#refusal", "rejects this token")
    page.write("not one word")
    page.press_enter()
    wait_for_text(page, "#refusal", "no space")
    page.value("document.getElementById('token').value = '', 0")
    page.write("s3cret-token")
    page.press_enter()
    wait_for_word(page, "Ready")
    wait_for_polls(status, 1)
    assert status.asked[-1] == "/status.json Bearer s3cret-token"
    assert not page.value("document.getElementById('unlock').checkVisibility()")

    places = "document.cookie, {...localStorage}, {...sessionStorage}, location.href, document.body.outerHTML"
    assert "s3cret" not in str(page.value(f"JSON.stringify([{places}])"))
    assert page.value("document.getElementById('token').value") == ""
    page.open(status.url)
    wait_for_word(page, "Token needed")


def test_a_token_that_no_longer_holds_takes_the_figures_away(shown: Page, status: StatusServer) -> None:
    status.token = "new"
    wait_for_word(shown, "Token needed")
    assert "resnet20" not in shown.text()
    assert shown.value("document.activeElement.id") == "token"


def test_names_that_hold_markup_are_shown_and_do_nothing(page: Page, status: StatusServer) -> None:
    status.says.update(reason=MARKUP)
    status.says["model"].update(name=MARKUP, version=MARKUP, target=MARKUP, precision=MARKUP, runs_on=MARKUP)
    status.says["model"]["input_shape"] = [MARKUP]
    status.says["golden"]["reason"] = MARKUP
    status.says["proof"].update(
        worst_class=MARKUP, place=MARKUP, runtime=MARKUP, instruction_set=MARKUP, verdict=MARKUP
    )
    page.open(status.url)
    wait_for_word(page, "Ready")
    assert page.value("document.querySelectorAll('script').length") == 1
    assert page.value("document.querySelectorAll('img').length") == 0
    assert page.value("window.stolen") is None
    assert page.value(f"document.body.textContent.split({MARKUP!r}.slice(0, 20)).length - 1") >= 10
    assert facts(page)["Worst class"] == f"{MARKUP}, drop +2.35 points"
    assert page.problems == []
