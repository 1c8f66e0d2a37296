"""What the status page looks like, at every width and in both schemes, and what a screen reader is told of it."""

from pathlib import Path

import pytest
from chromium import Page
from status_server import StatusServer, wait_for_text, wait_for_word

pytestmark = [pytest.mark.browser, pytest.mark.long]


def test_the_interval_is_drawn_against_the_margin(shown: Page, status: StatusServer) -> None:
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
    status.says["proof"].update(max_drop_points=0.5, verdict="undecided")
    wait_for_text(shown, "#verdict", "Undecided")
    low, zero, drop, high, margin = places()
    assert low < zero < drop < margin < high


def test_the_history_of_the_latency_becomes_a_line(shown: Page, status: StatusServer) -> None:
    for p50, said in ((0.5, "0.500"), (12.34, "12.3")):
        status.says["latency_ms"]["p50"] = p50
        wait_for_text(shown, "#p50", said)
    path = str(shown.value("document.querySelector('#spark .line').getAttribute('d')"))
    heights = [float(point.split()[1]) for point in path.replace("l0 0", "").replace("M", "").split("L")]
    assert heights[-1] == min(heights) < heights[-2] < heights[0] < 64
    wait_for_text(shown, "#trend", "0.334 to 12.3 ms")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_overflows(page: Page, status: StatusServer, width: int) -> None:
    status.says["model"]["name"] = "a-name-without-any-space-" * 8
    status.says["proof"]["worst_class"] = "n0250445800000000000000000000000" * 4
    status.says["requests"]["answered"] = 999_999_999
    page.show_as(width=width)
    page.open(status.url)
    wait_for_word(page, "Ready")
    assert page.value("document.documentElement.scrollWidth") <= width
    # A drawing's text does not make the page wider: it would be cut off.
    beyond = f"[...document.querySelectorAll('text')].filter((each) => each.getBoundingClientRect().right > {width})"
    for interval, margin in (([-0.2, 0.9], 1.0), ([4.0, 9.0], 0.25), ([-9.0, -4.0], 0.25)):
        status.says["proof"].update(drop_interval_points=interval, max_drop_points=margin)
        wait_for_text(page, "#margin", f"{margin:g} point")
        wait_for_text(page, "#interval", f"+{interval[1]:.2f}" if interval[1] > 0 else "−4.00")
        assert page.value(f"{beyond}.length") == 0
        assert page.value("document.querySelector('.at-margin').getBoundingClientRect().left") >= 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("state", ["Ready", "Starting", "Not ready", "No response", "Token needed"])
def test_text_stands_out_from_what_is_behind_it(page: Page, status: StatusServer, dark: bool, state: str) -> None:
    """WCAG 2.2, 1.4.3: a ratio of at least 4.5 to 1, in every state and both schemes."""
    status.says["ready"] = state == "Ready"
    status.says["loading"] = state == "Starting"
    status.says["proof"]["verdict"] = {"Ready": "pass", "Starting": "undecided"}.get(state, "fail")
    page.show_as(width=1280, dark=dark)
    page.open(status.url)
    page.wait_for("document.getElementById('word').textContent !== 'Connecting'")
    if state == "Token needed":
        status.token = "new"
    elif state == "No response":
        status.stop()
    wait_for_word(page, state)
    assert page.value((Path(__file__).parents[2] / "support" / "contrast.js").read_text()) == []


def test_a_screen_reader_is_told_of_the_state_and_not_of_every_figure(shown: Page) -> None:
    roles = shown.tree()
    for wanted in (("status", ""), ("heading", "resnet20 0.1.0"), ("heading", "Accuracy"), ("heading", "Latency")):
        assert wanted in roles
    live = shown.value("[...document.querySelectorAll('[aria-live], [role=alert]')].map((each) => each.innerText)")
    assert live == ["Ready\n\nThe model is serving requests.", ""]
    changes = "new MutationObserver((all) => { window.changes = (window.changes || 0) + all.length; })"
    watch = "{childList: true, characterData: true, subtree: true}"
    shown.value(f"{changes}.observe(document.querySelector('[role=status]'), {watch}), 0")
    before = shown.text("#heard")
    shown.wait_for(f"document.getElementById('heard').innerText !== {before!r}")
    assert shown.value("window.changes") is None
