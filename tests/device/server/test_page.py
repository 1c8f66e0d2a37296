"""What can be said of the status page without a browser; test_status.py has the rest."""

import re
from html.parser import HTMLParser

from targets.device.server.status import page

VOID = {"meta", "link", "input", "br"}


class Outline(HTMLParser):
    """Start tags with their attributes, and the names of elements that are open at the end or closed wrongly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


CONTENT, POLICY = page()
TEXT = CONTENT.decode()
OUTLINE = Outline(TEXT)


def test_the_page_is_small_and_whole() -> None:
    assert len(CONTENT) < 40_000
    assert TEXT.startswith("<!doctype html>\n")
    assert (OUTLINE.open, OUTLINE.wrong) == ([], [])
    assert page() == (CONTENT, POLICY)


def test_nothing_comes_from_elsewhere() -> None:
    sources = [(tag, value) for tag, has in OUTLINE.tags for name, value in has.items() if name in ("src", "href")]
    assert [source for source in sources if not str(source[1]).startswith("data:")] == [("a", "status.json")]
    assert set(re.findall(r"https?://[^'\"\s]+", TEXT)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(", TEXT)


def test_the_policy_forbids_all_but_the_pages_own_parts() -> None:
    directives = dict(directive.split(" ", 1) for directive in POLICY.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["connect-src"] == "'self'"
    for kind in ("style-src", "script-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", directives[kind])
    assert "unsafe" not in POLICY


def test_the_page_needs_nothing_that_the_policy_forbids() -> None:
    attributes = {name for _, has in OUTLINE.tags for name in has}
    assert not {name for name in attributes if name == "style" or name.startswith("on")}


def test_names_can_only_become_text() -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|setHTML", TEXT)
    assert "localStorage" not in TEXT
    assert "sessionStorage" not in TEXT
    assert "cookie" not in TEXT


def test_every_element_that_the_script_fills_exists_once() -> None:
    ids = [has["id"] for _, has in OUTLINE.tags if "id" in has]
    assert len(ids) == len(set(ids))
    asked_for = set(re.findall(r'(?:put|byId)\("([a-z0-9-]+)"', TEXT))
    assert asked_for <= set(ids)
    described = {name for _, has in OUTLINE.tags for name in (has.get("aria-labelledby") or "").split()}
    assert described <= set(ids)
