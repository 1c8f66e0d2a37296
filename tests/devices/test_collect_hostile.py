"""A device that is broken or hostile gets a message, in bounded time and memory."""

import json
import resource
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from tiny_package import write_tiny_package

from pipeline.artifacts import Place, Verdict
from pipeline.cli.collect import collect as command
from pipeline.devices import collect as module
from pipeline.devices.collect import Access, collect
from pipeline.errors import DeviceError, GateFailed, RecipeError
from pipeline.validate.archive import npy_bytes
from pipeline.validate.judge import Terms, judge_with
from pipeline.validate.predictions import Predictions, read_predictions, write_predictions
from pipeline.validate.published import report_json
from targets.device.model.manifest import read_manifest

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def device(answer: Answer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *args: object) -> None:
            del args

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def sent(content: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def proof(report: object) -> bytes:
    return json.dumps({"schema": 1, "state": "proven", "report": report}).encode()


def dripping(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(1000):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        return


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "does not return a JSON object"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "does not return a JSON object"),
        (b"\xff\xfe", "does not return a JSON object"),
        (proof(None), "has no proof to collect"),
        (b'{"schema": 1e400}', "has schema inf"),
    ],
)
def test_documents_that_are_none(content: bytes, message: str, tmp_path: Path) -> None:
    with device(sent(content)) as address, pytest.raises(DeviceError, match=message):
        collect(address, name="orin", workspace=tmp_path, access=Access())


def test_an_answer_that_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SECONDS", 0.3)
    started = time.monotonic()
    with device(dripping) as address, pytest.raises(DeviceError, match="without an end; nothing was kept"):
        collect(address, name="orin", workspace=tmp_path, access=Access())
    assert time.monotonic() - started < 20


def test_an_answer_without_bounds_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_JSON_BYTES", 1 << 20)
    with device(sent(b" " * (3 << 20))) as address, pytest.raises(DeviceError, match="more than 1 MiB"):
        collect(address, name="orin", workspace=tmp_path, access=Access())


@pytest.mark.parametrize("name", ["../../x", "a/b", "", ".hidden", "a" * 200, "x\x1b[2K"])
def test_a_name_that_is_no_devices_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--name .* is not valid"):
        collect("http://127.0.0.1:1", name=name, workspace=tmp_path, access=Access())


@pytest.mark.parametrize("value", [10**400, -1, 101, float("nan"), "1", True, None])
def test_margins_that_are_none(value: object) -> None:
    with pytest.raises((ValueError, OverflowError)):
        module._points(value)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """With a published artifact, which is judged by a margin of one point, and whose answers are partly wrong."""
    tiny = write_tiny_package(tmp_path / "ws" / "artifacts" / "tiny-0.1.0-cpu")
    (tiny.folder / "report.json").write_text(report_json(replace(tiny.report, max_drop_points=1.0)))
    return tmp_path / "ws"


def answers(workspace: Path, *, wrong: int = 0) -> Predictions:
    """What the artifact answered, but for the first images, of which the device says something else."""
    stored = read_predictions(workspace / "artifacts" / "tiny-0.1.0-cpu" / "predictions.npz")
    logits = stored.logits.copy()
    logits[:wrong] = np.roll(logits[:wrong], 1, axis=1)
    return replace(stored, logits=logits)


def device_of(workspace: Path, stored: Predictions, **claims: object) -> Answer:
    """A server that tells of these answers what a device would, but for its claims."""
    published = workspace / "artifacts" / "tiny-0.1.0-cpu"
    file = workspace / "sent.npz"
    write_predictions(file, stored)
    margin = float(str(claims.get("max_drop_points", 1.0)))
    terms = Terms(max_drop=margin, gate_looks=1)
    report = judge_with(published / "shard.zip", stored, target="cpu", place=Place.DEVICE, terms=terms)
    facts = {"schema": 1, "state": "proven", "precision": read_manifest(published).precision}
    document = json.dumps({**facts, "report": {**json.loads(report_json(report)), **claims}}).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        sent(document if handler.path == "/proof" else file.read_bytes())(handler)

    return answer


def test_a_devices_own_margin_does_not_count(workspace: Path) -> None:
    """It says pass by 100 points; by the one point of the recipe it fails, and that is what is kept."""
    with device(device_of(workspace, answers(workspace, wrong=60), max_drop_points=100.0)) as address:
        found = collect(address, name="orin", workspace=workspace, access=Access())
    assert (found.report.verdict, found.report.max_drop_points) == (Verdict.FAIL, 1.0)
    assert "judged itself with a margin of 100 points" in (found.note or "")
    kept = json.loads((found.folder / "report.json").read_text())
    assert (kept["verdict"], kept["max_drop_points"]) == ("fail", 1.0)


def test_a_devices_own_confidence_does_not_count(workspace: Path) -> None:
    with device(device_of(workspace, answers(workspace), confidence=0.5)) as address:
        found = collect(address, name="orin", workspace=workspace, access=Access())
    assert found.report.confidence == 0.95
    assert "confidence 0.5" in (found.note or "")


def test_the_command_says_no_and_why(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"token_file": None, "authority": None, "workspace": workspace, "as_json": False}
    with (
        device(device_of(workspace, answers(workspace, wrong=60), max_drop_points=100.0)) as address,
        pytest.raises(GateFailed, match="loses more than the allowed 1 points"),
    ):
        command(address, name="orin", **given)  # type: ignore[arg-type]
    assert "judged itself with a margin of 100 points" in capsys.readouterr().out


def test_an_honest_device_is_believed_and_a_made_up_verdict_is_not(workspace: Path) -> None:
    with device(device_of(workspace, answers(workspace))) as address:
        found = collect(address, name="orin", workspace=workspace, access=Access())
    assert (found.report.verdict, found.note) == (Verdict.UNDECIDED, None)
    with (
        device(device_of(workspace, answers(workspace), verdict="pass")) as address,
        pytest.raises(DeviceError, match="verdict differ"),
    ):
        collect(address, name="orin", workspace=workspace, access=Access())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_the_token_goes_nowhere(status: int, tmp_path: Path) -> None:
    stolen: list[str | None] = []

    def thief(handler: BaseHTTPRequestHandler) -> None:
        stolen.append(handler.headers.get("Authorization"))
        sent(proof(None))(handler)

    with device(thief) as elsewhere:

        def redirecting(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.send_header("Location", f"{elsewhere}/proof")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        with device(redirecting) as address, pytest.raises(DeviceError, match=r"redirects to http.*not followed"):
            collect(address, name="orin", workspace=tmp_path, access=Access(token="secret"))
    assert stolen == []


@pytest.mark.long
def test_answers_that_unpack_to_gigabytes_are_refused_before_they_are_unpacked(workspace: Path) -> None:
    """3 MB of zeros, compressed: 3 GB of logits."""
    stored = answers(workspace)
    answer = device_of(workspace, stored)
    count = 3 << 28
    head = npy_bytes(np.zeros((1, 1), np.float32))[:128].replace(b"(1, 1)", f"({count // 4}, 4)".encode())
    with zipfile.ZipFile(workspace / "sent.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("logits.npy", "w", force_zip64=True) as member:
            member.write(head[:117].ljust(127) + b"\n")
            for _ in range(count * 4 >> 24):
                member.write(bytes(1 << 24))
        for name in ("shard_sha256", "artifact_sha256", "instruction_set", "runtime"):
            archive.writestr(f"{name}.npy", npy_bytes(np.array(str(getattr(stored, name)))))
    assert (workspace / "sent.npz").stat().st_size < 30 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with device(answer) as address, pytest.raises(DeviceError, match="unpacks to"):
        collect(address, name="orin", workspace=workspace, access=Access())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_a_document_is_not_parsed_at_any_size(tmp_path: Path) -> None:
    """Empty lists take thirty times their text in memory."""
    many = b'{"schema": 1, "layers": [' + b"[]," * (6 << 20) + b"[]]}"
    with device(sent(many)) as address, pytest.raises(DeviceError, match="more than 16 MiB"):
        collect(address, name="orin", workspace=tmp_path, access=Access())


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "ftp://127.0.0.1/x", "orin", "http://999.999.999.999:8000", "http://x:99999"]
)
def test_only_http_is_asked(address: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="is not a server's address"):
        collect(address, name="orin", workspace=tmp_path, access=Access())
