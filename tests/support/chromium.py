"""A real headless Chromium, driven over the DevTools protocol through a pair of pipes: no port and no library."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60.0
POLL_SECONDS = 0.05
# As root there is no sandbox, and a container's /dev/shm is small.
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
)


class BrowserError(AssertionError):
    """The browser ended, did not answer, or refused a command."""


def find_chromium() -> str | None:
    """The path of a Chromium that runs, as scripts/browser.sh finds it."""
    if os.environ.get("BROWSER") == "skip":
        return None
    named = os.environ.get("CHROMIUM")
    found = (path for path in map(shutil.which, [named] if named else NAMES) if path)
    return next((path for path in found if _runs(path)), None)


def _runs(program: str) -> bool:
    # Ubuntu has a stub of that name, which only asks for snap.
    return subprocess.run([program, "--version"], capture_output=True, timeout=SECONDS).returncode == 0


class Page:
    """One tab; `problems` has what the browser complained of: exceptions, and what the page's policy forbade."""

    def __init__(self, browser: "Chromium") -> None:
        self._browser = browser
        self._target = browser.command("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = browser.command("Target.attachToTarget", {"targetId": self._target, "flatten": True})
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._do(f"{domain}.enable")

    @property
    def problems(self) -> list[str]:
        self.value("0")
        found = []
        for event in self._browser.events:
            if event.get("sessionId") == self._session and event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(event["params"]["exceptionDetails"]))
            elif event.get("sessionId") == self._session and event["method"] == "Log.entryAdded":
                found.append(event["params"]["entry"]["text"])
        return found

    def open(self, url: str) -> None:
        self._do("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def close(self) -> None:
        self._browser.command("Target.closeTarget", {"targetId": self._target})

    def show_as(self, *, width: int, height: int = 900, dark: bool = False) -> None:
        self._do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._do("Emulation.setEmulatedMedia", features=[scheme])

    def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to, as JSON."""
        answer = self._do("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise BrowserError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not self.value(expression):
            if time.monotonic() > deadline:
                raise BrowserError(f"never came true: {expression}; the page says {self.text()!r}")
            time.sleep(POLL_SECONDS)

    def text(self, query: str = "body") -> str:
        """What a reader sees of an element."""
        return str(self.value(f"document.querySelector({json.dumps(query)}).innerText"))

    def write(self, text: str) -> None:
        """Into what has the focus."""
        self._do("Input.insertText", text=text)

    def press_enter(self) -> None:
        for kind in ("keyDown", "keyUp"):
            self._do(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
            )

    def tree(self) -> list[tuple[str, str]]:
        """Role and name of all that a screen reader is told of."""
        nodes = self._do("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]
        ]

    def screenshot(self, file: Path) -> None:
        """All of the page, as PNG."""
        data = self._do("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(data))

    def _do(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.command(method, parameters, self._session)


class Chromium:
    def __init__(self, sending: int, receiving: int) -> None:
        self._sending, self._receiving = sending, receiving
        self._buffer = b""
        self._last = 0
        self.events: list[dict[str, Any]] = []

    def command(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """Its result; events that come in between are kept."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._sending, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(method)
            if answer.get("id") != self._last:
                self.events.append(answer)
            elif "error" in answer:
                raise BrowserError(f"{method}: {answer['error']}")
            else:
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            readable, _, _ = select.select([self._receiving], [], [], SECONDS)
            chunk = os.read(self._receiving, 1 << 16) if readable else b""
            if not chunk:
                raise BrowserError(f"Chromium {'ended' if readable else 'does not answer'} at {method}")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed


@contextmanager
def chromium(program: str, profile: Path) -> Iterator[Chromium]:
    """Start it with an empty profile in the folder `profile`; it ends when this is left."""
    theirs_in, ours_out = _pipe()
    ours_in, theirs_out = _pipe()
    start = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out} {theirs_in}<&- {theirs_out}>&-'
    options = (*OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank")
    with (profile.parent / f"{profile.name}.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", start, "bash", program, *options],
            pass_fds=(theirs_in, theirs_out),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        browser = Chromium(ours_out, ours_in)
        yield browser
        browser.command("Browser.close", {})
    finally:
        os.close(ours_out)
        os.close(ours_in)
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pipe() -> tuple[int, int]:
    """Both ends with numbers above 9: Chromium wants its own to be 3 and 4, which must not be taken yet."""
    ends = os.pipe()
    reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return reading, writing
