"""The status page in a real Chromium, beside a server that answers as each test wants it to."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import NAMES, Chromium, Page, chromium, find_chromium
from status_server import STATUS, StatusServer, status_server

pytestmark = pytest.mark.browser
MARKUP = "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 1'>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        pytest.skip(
            f"no browser runs here ({', '.join(NAMES)}, or CHROMIUM), or BROWSER=skip: scripts/browser.sh installs one"
        )
    with chromium(program, tmp_path_factory.mktemp("browser") / "profile") as started:
        yield started


@pytest.fixture
def server() -> Iterator[StatusServer]:
    with status_server() as started:
        yield started


@pytest.fixture
def page(browser: Chromium) -> Iterator[Page]:
    opened = Page(browser)
    yield opened
    opened.close()


@pytest.fixture
def shown(page: Page, server: StatusServer) -> Page:
    """The page as it looks when all is well."""
    page.open(server.url)
    wait_for_word(page, "Ready")
    return page


def wait_for_word(page: Page, word: str) -> None:
    page.wait_for(f"document.getElementById('word').textContent === '{word}'")


def wait_for_text(page: Page, query: str, text: str) -> None:
    page.wait_for(f"document.querySelector('{query}').innerText.includes({text!r})")


def wait_for_polls(server: StatusServer, count: int) -> None:
    before = len(server.asked)
    while len(server.asked) < before + count:
        time.sleep(0.02)


def facts(page: Page) -> dict[str, str]:
    """Every term on the page with what is said of it."""
    pairs = page.value(
        "[...document.querySelectorAll('dl > div')].map((row) => "
        "[row.querySelector('dt').innerText, row.querySelector('dd').innerText.replace(/\\s+/g, ' ').trim()])"
    )
    return {str(term): str(said) for term, said in pairs}


def test_everything_is_told(shown: Page) -> None:
    assert shown.text("h1") == "resnet20 0.1.0"
    assert shown.text("#state").split("\n\n") == ["Ready", "The model answers requests."]
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


def test_the_browser_has_nothing_to_complain_of_under_the_policy(shown: Page, server: StatusServer) -> None:
    wait_for_polls(server, 2)
    assert shown.problems == []
    assert {path.split()[0] for path in server.asked} <= {"/", "/status.json"}


def test_the_policy_stops_what_is_not_the_pages_own(shown: Page, server: StatusServer) -> None:
    """So that the test above would see a page that needs more than it is allowed."""
    shown.value(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.stolen = 1'})), 0"
    )
    shown.value("document.querySelector('h1').setAttribute('style', 'color: red'), 0")
    assert shown.value("window.stolen") is None
    assert shown.value("getComputedStyle(document.querySelector('h1')).color") != "rgb(255, 0, 0)"
    assert len([problem for problem in shown.problems if "Content Security Policy" in problem]) == 2


def test_the_interval_is_drawn_against_the_margin(shown: Page, server: StatusServer) -> None:
    def places() -> list[float]:
        """Of the interval's low end, no drop, the drop seen, the high end, the margin."""
        script = (
            "(([range, zero, circle, margin]) => [range.getAttribute('x1'), zero.getAttribute('x1'), "
            "circle.getAttribute('cx'), range.getAttribute('x2'), margin.getAttribute('x1')].map(parseFloat))"
            "(['.range', '.zero', 'circle', '.margin'].map((part) => document.querySelector('#plot ' + part)))"
        )
        return [float(place) for place in shown.value(script)]

    low, zero, drop, high, margin = places()
    assert low < zero < drop < high < margin
    assert (margin - zero) * 0.236 == pytest.approx(drop - zero, abs=0.1)
    said = "Drop +0.24 points, 95 % interval −0.22 to +0.86, 1 point allowed"
    assert ("image", said) in shown.tree()
    server.status["proof"].update(max_drop_points=0.5, verdict="undecided")
    wait_for_text(shown, "#verdict", "Undecided")
    low, zero, drop, high, margin = places()
    assert low < zero < drop < margin < high


def test_the_history_of_the_latency_becomes_a_line(shown: Page, server: StatusServer) -> None:
    for p50, said in ((0.5, "0.500"), (12.34, "12.3")):
        server.status["latency_ms"]["p50"] = p50
        wait_for_text(shown, "#p50", said)
    path = str(shown.value("document.querySelector('#spark .line').getAttribute('d')"))
    heights = [float(point.split()[1]) for point in path.replace("l0 0", "").replace("M", "").split("L")]
    assert heights[-1] == min(heights) < heights[-2] < heights[0] < 64
    wait_for_text(shown, "#trend", "0.334 to 12.3 ms")


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
    page: Page, server: StatusServer, changes: dict[str, Any], word: str, why: str
) -> None:
    server.status.update(ready=False, **changes)
    page.open(server.url)
    wait_for_word(page, word)
    assert page.text("#why") == why
    assert page.problems == []
    server.status = {**STATUS, "ready": True}
    wait_for_word(page, "Ready")


def test_what_is_not_there_is_said_not_to_be(page: Page, server: StatusServer) -> None:
    server.status.update(proof=None, latency_ms=None, golden=None)
    server.status["model"]["weight_bits"] = None
    page.open(server.url)
    wait_for_word(page, "Ready")
    assert "no gate report in this image" in page.text("#unproven")
    assert not page.value("document.getElementById('proven').checkVisibility()")
    assert page.text("#count") == "no request yet"
    said = facts(page)
    assert (said["p50"], said["Golden images"], said["Precision"]) == ("—", "not compared yet", "int8")


def test_a_server_that_is_gone_is_told_with_the_time_and_found_again(shown: Page, server: StatusServer) -> None:
    server.stop()
    wait_for_word(shown, "No answer")
    assert "the figures below are of that time" in shown.text("#why")
    (time_of_last,) = shown.value(r"document.getElementById('why').textContent.match(/\d\d:\d\d:\d\d/g)")
    assert shown.value("document.title") == "No answer · resnet20"
    wait_for_text(shown, "#heard", "ago")
    assert f"came at {time_of_last};" in shown.text("#why")
    assert facts(shown)["Answered"] == "1,204,518"
    server.status["requests"]["answered"] = 7
    server.start()
    wait_for_word(shown, "Ready")
    assert facts(shown)["Answered"] == "7"


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        pytest.param(lambda server: setattr(server, "code", 500), "The server answers with status 500.", id="status"),
        pytest.param(lambda server: setattr(server, "body", b"<html>"), "is not one that this page", id="no-json"),
        pytest.param(lambda server: setattr(server, "body", b"null"), "is not one that this page", id="null"),
        pytest.param(lambda server: server.status.update(proof={}), "is not one that this page", id="half"),
    ],
)
def test_an_answer_that_is_none_is_told_as_such(
    shown: Page, server: StatusServer, break_it: Callable[[StatusServer], None], why: str
) -> None:
    break_it(server)
    wait_for_word(shown, "No answer")
    assert why in shown.text("#why")


def test_a_page_that_never_got_an_answer_promises_no_figures(page: Page, server: StatusServer) -> None:
    server.code = 503
    page.open(server.url)
    wait_for_word(page, "No answer")
    assert "figures" not in page.text("#why")
    assert not page.value("document.getElementById('cards').checkVisibility()")
    server.code = 200
    wait_for_word(page, "Ready")


def test_a_token_is_asked_for_and_kept_in_memory_alone(page: Page, server: StatusServer) -> None:
    server.token = "s3cret-token"
    page.open(server.url)
    wait_for_word(page, "Token needed")
    assert not page.value("document.getElementById('cards').checkVisibility()")
    assert page.value("document.querySelectorAll('input').length") == 1
    asked = len(server.asked)
    time.sleep(2.5)
    assert len(server.asked) == asked, "a page without token goes on asking"

    page.write("wrong")
    page.press_enter()
    wait_for_text(page, "#refusal", "does not take this token")
    page.write("not one word")
    page.press_enter()
    wait_for_text(page, "#refusal", "no space")
    page.value("document.getElementById('token').value = '', 0")
    page.write("s3cret-token")
    page.press_enter()
    wait_for_word(page, "Ready")
    wait_for_polls(server, 1)
    assert server.asked[-1] == "/status.json Bearer s3cret-token"
    assert not page.value("document.getElementById('unlock').checkVisibility()")

    places = "document.cookie, {...localStorage}, {...sessionStorage}, location.href, document.body.outerHTML"
    assert "s3cret" not in str(page.value(f"JSON.stringify([{places}])"))
    assert page.value("document.getElementById('token').value") == ""
    page.open(server.url)
    wait_for_word(page, "Token needed")


def test_a_token_that_no_longer_holds_takes_the_figures_away(shown: Page, server: StatusServer) -> None:
    server.token = "new"
    wait_for_word(shown, "Token needed")
    assert "resnet20" not in shown.text()
    assert shown.value("document.activeElement.id") == "token"


def test_names_that_hold_markup_are_shown_and_do_nothing(page: Page, server: StatusServer) -> None:
    server.status.update(reason=MARKUP)
    server.status["model"].update(name=MARKUP, version=MARKUP, target=MARKUP, precision=MARKUP, runs_on=MARKUP)
    server.status["model"]["input_shape"] = [MARKUP]
    server.status["golden"]["reason"] = MARKUP
    server.status["proof"].update(
        worst_class=MARKUP, place=MARKUP, runtime=MARKUP, instruction_set=MARKUP, verdict=MARKUP
    )
    page.open(server.url)
    wait_for_word(page, "Ready")
    assert page.value("document.querySelectorAll('script').length") == 1
    assert page.value("document.querySelectorAll('img').length") == 0
    assert page.value("window.stolen") is None
    assert page.value(f"document.body.textContent.split({MARKUP!r}.slice(0, 20)).length - 1") >= 10
    assert facts(page)["Worst class"] == f"{MARKUP}, drop +2.35 points"
    assert page.problems == []


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_overflows(page: Page, server: StatusServer, width: int) -> None:
    server.status["model"]["name"] = "a-name-without-any-space-" * 8
    server.status["proof"]["worst_class"] = "n0250445800000000000000000000000" * 4
    server.status["requests"]["answered"] = 999_999_999
    page.show_as(width=width)
    page.open(server.url)
    wait_for_word(page, "Ready")
    assert page.value("document.documentElement.scrollWidth") <= width
    # A drawing's text does not make the page wider: it would be cut off.
    beyond = f"[...document.querySelectorAll('text')].filter((each) => each.getBoundingClientRect().right > {width})"
    for interval, margin in (([-0.2, 0.9], 1.0), ([4.0, 9.0], 0.25), ([-9.0, -4.0], 0.25)):
        server.status["proof"].update(drop_interval_points=interval, max_drop_points=margin)
        wait_for_text(page, "#margin", f"{margin:g} point")
        wait_for_text(page, "#interval", f"+{interval[1]:.2f}" if interval[1] > 0 else "−4.00")
        assert page.value(f"{beyond}.length") == 0
        assert page.value("document.querySelector('.at-margin').getBoundingClientRect().left") >= 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("state", ["Ready", "Starting", "Not ready", "No answer", "Token needed"])
def test_text_stands_out_from_what_is_behind_it(page: Page, server: StatusServer, dark: bool, state: str) -> None:
    """WCAG 2.2, 1.4.3: a ratio of at least 4.5 to 1, in every state and both schemes."""
    server.status["ready"] = state == "Ready"
    server.status["loading"] = state == "Starting"
    server.status["proof"]["verdict"] = {"Ready": "pass", "Starting": "undecided"}.get(state, "fail")
    page.show_as(width=1280, dark=dark)
    page.open(server.url)
    page.wait_for("document.getElementById('word').textContent !== 'Connecting'")
    if state == "Token needed":
        server.token = "new"
    elif state == "No answer":
        server.stop()
    wait_for_word(page, state)
    assert page.value((Path(__file__).parent / "contrast.js").read_text()) == []


def test_a_screen_reader_is_told_of_the_state_and_not_of_every_figure(shown: Page) -> None:
    roles = shown.tree()
    for wanted in (("status", ""), ("heading", "resnet20 0.1.0"), ("heading", "Accuracy"), ("heading", "Latency")):
        assert wanted in roles
    live = shown.value("[...document.querySelectorAll('[aria-live], [role=alert]')].map((each) => each.innerText)")
    assert live == ["Ready\n\nThe model answers requests.", ""]
    changes = "new MutationObserver((all) => { window.changes = (window.changes || 0) + all.length; })"
    watch = "{childList: true, characterData: true, subtree: true}"
    shown.value(f"{changes}.observe(document.querySelector('[role=status]'), {watch}), 0")
    before = shown.text("#heard")
    shown.wait_for(f"document.getElementById('heard').innerText !== {before!r}")
    assert shown.value("window.changes") is None
