"""Readiness: never before the golden images have matched, and with the reason where they do not."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from device_server import INFER, answering, asking, images, loaded
from malformed_requests import GOOD
from tiny_artifact import OPTIONS
from tiny_package import colorful, with_manifest, write_tiny_package

from targets.device.errors import SessionError
from targets.device.model.cpu import instruction_set
from targets.device.model.golden import FILE, GoldenResult, check, read_golden, write_golden
from targets.device.model.manifest import Manifest, read_manifest, sha256_of
from targets.device.model.session import Session
from targets.device.model.session import Session as Opened
from targets.device.open_session import open_session
from targets.device.server import service as service_module
from targets.device.server import start_onnxruntime as ort_start
from targets.device.server.service import NotReady, Readiness, Service
from targets.device.settings import Settings


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_tiny_package(tmp_path / "artifact").folder


class Gate:
    """Holds the check of the golden images, the real one, until it is opened."""

    def __init__(self) -> None:
        self.is_open = threading.Event()

    def __call__(self, session: Session, folder: Path, manifest: Manifest) -> GoldenResult:
        assert self.is_open.wait(60)
        return check(session, folder, manifest)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate()
    monkeypatch.setattr(ort_start, "check", made)
    return made


def test_it_is_not_ready_before_its_golden_images_have_matched(artifact: Path, gate: Gate) -> None:
    service = Service(artifact)
    with asking(service, Settings(model_folder=artifact)) as client:
        waiting = "the model is being loaded and checked against its golden images"
        assert service.readiness == Readiness(False, True, waiting)
        response = client.get("/v2/health/ready")
        assert (response.status_code, response.json()) == (503, {"ready": False, "loading": True, "error": waiting})
        response = client.get("/v2/models/tiny/ready")
        assert (response.status_code, response.json()) == (503, {"name": "tiny", "ready": False, "error": waiting})
        response = client.post(INFER, content=GOOD)
        assert (response.status_code, response.json()) == (503, {"error": waiting})
        assert response.headers["retry-after"] == "1"
        with pytest.raises(NotReady, match="being loaded"):
            service.infer(images(1))
        # What it is and that it lives is known all the same.
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/models/tiny").json()["name"] == "tiny"
        gate.is_open.set()
        loaded(service)
        assert service.readiness == Readiness(True, False, "")
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert client.get("/v2/models/tiny/versions/0.1.0/ready").json() == {"name": "tiny", "ready": True}
        assert client.post(INFER, content=GOOD).status_code == 200
    # The end of the application is the end of the model.
    with pytest.raises(NotReady, match="stopping"):
        service.infer(images(1))


def with_other_model(folder: Path, content: bytes) -> None:
    (folder / "model.onnx").write_bytes(content)
    with_manifest(folder, model_sha256=sha256_of(folder / "model.onnx"))


def with_moved_logits(folder: Path) -> None:
    pixels, logits = read_golden(folder)
    write_golden(folder, pixels, logits + np.float32(0.5))


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("no manifest", lambda folder: (folder / "manifest.json").unlink(), "it has no manifest.json"),
    ("a damaged manifest", lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
    ("another schema", lambda folder: with_manifest(folder, schema=2), "has schema 2"),
    ("no model", lambda folder: (folder / "model.onnx").unlink(), "has no model file"),
    ("a changed model", lambda folder: (folder / "model.onnx").write_bytes(b"x"), "is not the model its manifest"),
    ("no ONNX", lambda folder: with_other_model(folder, b"x"), "cannot open"),
    ("an older runtime", lambda folder: with_manifest(folder, runtime_version="99.0.0"), "is older than 99.0.0"),
    ("an unknown option", lambda folder: with_manifest(folder, session_options={"x": 1}), "the session option 'x'"),
    ("other classes", lambda folder: with_manifest(folder, classes=("a", "b")), "its manifest says [3, 8, 8] and 2"),
    ("no golden images", lambda folder: (folder / FILE).unlink(), "the golden images cannot be read"),
    ("other logits", with_moved_logits, "16 golden images do not match: 100.0% of the classes agree"),
    (
        "golden images of another size",
        lambda folder: write_golden(folder, np.zeros((2, 9, 8, 3), np.uint8), np.zeros((2, 4), np.float32)),
        "the golden images [2, 9, 8, 3] do not fit the input shape [3, 8, 8]",
    ),
]


@pytest.mark.parametrize(
    ("damage", "reason"), [pytest.param(damage, reason, id=name) for name, damage, reason in BROKEN]
)
def test_a_broken_artifact_is_never_ready_and_says_why(
    artifact: Path, damage: Callable[[Path], object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(artifact)
    with answering(artifact) as client:
        response = client.get("/v2/health/ready")
        told = response.json()
        assert (response.status_code, told["ready"], told["loading"]) == (503, False, False)
        assert reason in told["error"]
        for response in (client.get("/v2/models/tiny/ready"), client.post(INFER, content=GOOD)):
            assert response.status_code == 503
            assert response.json()["error"] == told["error"]
        assert client.get("/v2/health/live").status_code == 200
    # Once in the log, without a trace: it is no fault of the program.
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.message == "the model cannot be served"
    assert record.__dict__["fields"] == {"reason": told["error"]}
    assert record.exc_info is None


def test_without_a_manifest_nothing_is_known_of_the_model(tmp_path: Path) -> None:
    with answering(tmp_path) as client:
        assert client.get("/v2").json()["version"] == ""
        assert client.get("/v2/models/tiny").status_code == 503


def test_a_fault_of_the_program_is_logged_with_its_trace(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_arguments: object) -> GoldenResult:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ort_start, "check", broken)
    service = Service(artifact)
    loaded(service)
    assert service.readiness == Readiness(False, False, "a bug")
    assert "ZeroDivisionError" in caplog.text
    service.close()


def test_it_answers_as_a_session_does(artifact: Path) -> None:
    service = Service(artifact)
    loaded(service)
    values = images(40, seed=3)
    with open_session(artifact, read_manifest(artifact)) as session:
        np.testing.assert_array_equal(service.infer(values), session.infer(values))
    assert service.place == f"onnxruntime {onnxruntime.__version__} on {instruction_set()}"
    service.close()


def test_several_instances_answer_to_the_bit_as_one_session_does(artifact: Path) -> None:
    asked = [images(count, seed=count) for count in range(1, 9)]
    with open_session(artifact, read_manifest(artifact)) as session:
        expected = [session.infer(each) for each in asked]
    service = Service(artifact, Settings(model_folder=artifact, instances=4))
    try:
        loaded(service)
        assert service.instances == 4
        futures = [service.submit(lambda each=each: each, lambda logits: logits) for each in asked * 20]  # type: ignore[misc]
        for future, logits in zip(futures, expected * 20, strict=True):
            np.testing.assert_array_equal(future.result(60), logits)
    finally:
        assert service.close()


@pytest.mark.parametrize(("threads", "cores", "instances"), [(1, 4, 4), (2, 4, 2), (4, 2, 1), (0, 4, 1)])
def test_unless_it_is_said_there_are_as_many_as_the_cores_run(
    threads: int, cores: int, instances: int, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "cores_allowed", lambda: cores)
    with_manifest(artifact, session_options={**OPTIONS, "intra_op_num_threads": threads})
    service = Service(artifact, Settings(model_folder=artifact))
    assert service.instances == instances
    service.close()


def test_a_gpu_runs_one_at_a_time(artifact: Path) -> None:
    with_manifest(artifact, runtime="tensorrt")
    service = Service(artifact, Settings(model_folder=artifact, instances=2))
    assert service.instances == 1
    service.loaded(60)
    assert "INSTANCES is 2, but a GPU runs one request at a time" in service.readiness.reason
    service.close()


def test_closing_answers_what_came_before_and_frees_the_model(artifact: Path) -> None:
    service = Service(artifact)
    answers = [service.submit(lambda: images(2), lambda logits: logits.shape) for _ in range(3)]
    service.close()
    assert [answer.result(0) for answer in answers] == [(2, 4)] * 3
    with pytest.raises(NotReady, match="stopping"):
        service.infer(images(1))


def test_a_model_that_does_not_match_is_freed(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Opened] = []

    def remembering(folder: Path, manifest: Manifest) -> Opened:
        opened.append(open_session(folder, manifest))
        return opened[-1]

    monkeypatch.setattr(ort_start, "open_session", remembering)
    write_golden(artifact, colorful(2, seed=9), np.zeros((2, 4), np.float32))
    service = Service(artifact)
    loaded(service)
    assert not service.readiness.ready
    with pytest.raises(SessionError, match="closed"):
        opened[0].infer(images(1))
    service.close()
