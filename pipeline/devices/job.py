"""All of the work on one device: check, send, build, prove, judge, tag; every step can be resumed."""

import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.artifacts import AccuracyReport, Verdict
from pipeline.devices import docker as engine
from pipeline.devices import store
from pipeline.devices.delivered import Delivered
from pipeline.devices.delivery import Work
from pipeline.devices.failures import RETRIED, parsing_answer
from pipeline.devices.inventory import Device
from pipeline.devices.record import Record, comparison_text, read_record, write_record
from pipeline.devices.requirements import Survey, survey
from pipeline.devices.ssh import Connection, Stop, retry
from pipeline.errors import (
    DeployError,
    DeviceError,
    DeviceTimeout,
    DeviceUnfit,
    GateFailed,
    GateUndecided,
    WorkspaceError,
)
from pipeline.progress import Progress
from pipeline.untrusted import parse_json
from pipeline.validate.packaging_rule import may_be_packaged, verdict_text
from targets.device.files import DOCUMENT, PREDICTIONS

PROVEN, NOT_PROVEN, CANNOT_BE_PROVEN = 0, 1, 3
"""Exit statuses of `python -m targets.device prove`."""
KILLED = 137
PLACE_LABEL = {"dev.edge-deploy.place": "device"}
"""Set before the proof, but an image that is not proven gets no tag."""


class Job:
    """One device's work; `folder` receives its proof."""

    def __init__(self, device: Device, work: Work, *, folder: Path, progress: Progress, stop: Stop) -> None:
        self._device, self._work, self._folder = device, work, folder
        self._progress, self._stop = progress, stop
        self._name = work.job(device)
        self._container = f"edge-deploy-{self._name}"
        self._delivered = Delivered(device=device, target=work.target.name)

    def run(self) -> Delivered:
        """Do the work; errors of ours are in the result, never raised."""
        started = time.monotonic()
        deadline = started + self._device.timeout
        record = read_record(self._folder)
        try:
            if record is not None and record.key == self._work.key and self._is_still_there(record, deadline):
                self._take(record)
            else:
                retry(
                    lambda: self._attempt(deadline),
                    self._device,
                    deadline=deadline,
                    progress=self._progress,
                    stop=self._stop,
                )
        except DeployError as error:
            self._delivered.error = error
        except OSError as error:
            # An error of this host; the other devices may still do work that needs no space here.
            self._delivered.error = WorkspaceError(
                f"{self._device.name}: its proof cannot be stored on this host: {error}. Free some space, or give "
                "another workspace (--workspace), and run again."
            )
        self._delivered.seconds = time.monotonic() - started
        return self._delivered

    def _is_still_there(self, record: Record, deadline: float) -> bool:
        """Whether the device still has this image; if it cannot be reached, assume so, as it was proven."""
        try:
            with self._connect(deadline) as connection:
                return engine.id_of(connection, self._work.tag) == record.image
        except RETRIED as error:
            self._progress.line(f"proven before; whether its image is still there cannot be checked: {error}")
            return True

    def _take(self, record: Record) -> None:
        done = self._delivered
        done.was_done_before, done.report, done.notes = True, record.report, record.notes
        done.image, done.folder = record.image, self._folder
        self._progress.line("nothing to do: proven before")

    def _connect(self, deadline: float) -> Connection:
        return Connection(self._device, deadline=deadline, progress=self._progress, stop=self._stop)

    def _attempt(self, deadline: float) -> None:
        with self._connect(deadline) as connection:
            try:
                self._deliver(connection)
            except (*RETRIED, DeviceTimeout):
                # Existing work on the device is resumed.
                raise
            except DeployError:
                self._clean_up(connection)
                raise

    def _deliver(self, connection: Connection) -> None:
        work, device, done = self._work, self._device, self._delivered
        found = survey(connection, device, work.target, base=work.base, needs=work.needs)
        done.notes = found.notes
        for note in found.notes:
            self._progress.line(f"note: {note}")
        engine.fetch_base(connection, device, work.base, work.target.platform)
        self._progress.line("sending missing files")
        files, size = store.send(connection, self._name, work.index)
        done.sent_files, done.sent_bytes = done.sent_files + files, done.sent_bytes + size
        self._progress.line(f"building the image; sent {store.amount_text(files, size)}")
        image = engine.build(connection, self._name, work.dockerfile(PLACE_LABEL), self._progress.detail)
        self._progress.line("proving the image")
        with tempfile.TemporaryDirectory(prefix="edge-deploy-") as scratch:
            evidence = Path(scratch) / "out"
            evidence.mkdir()
            report = self._proven(connection, image, found, evidence)
            self._progress.line(f"{verdict_text(report)}")
            with parsing_answer(device, "its proof"):
                if compared := comparison_text(_device_document(evidence)):
                    self._progress.line(compared)
                labelled = work.dockerfile({**work.describe(report, evidence / PREDICTIONS), **PLACE_LABEL})
            done.image = engine.tag(connection, self._name, work.tag, labelled, self._progress.detail)
            write_record(
                self._folder,
                evidence,
                device=device,
                key=work.key,
                tag=work.tag,
                image=done.image,
                survey=found,
                report=report,
            )
        done.folder = self._folder
        self._clean_up(connection)

    def _proven(self, connection: Connection, image: str, found: Survey, evidence: Path) -> AccuracyReport:
        """Return the host's own report on the device's answers; raise if they do not prove the image."""
        folder, measure = f"{found.facts.work}/jobs/{self._name}", self._device.measure
        words = engine.proof_words(image, self._work.tag, self._work.target, folder=folder, measure=measure)
        status, said = engine.prove(
            connection,
            self._name,
            self._container,
            words,
            lambda line: self._progress.detail(engine.message_in(line)),
        )
        who = f"{self._device.name} ({self._device.address})"
        if status == CANNOT_BE_PROVEN:
            raise DeviceUnfit(f"{who}: the image cannot be proven there: {engine.last_message_in(said)}")
        if status not in (PROVEN, NOT_PROVEN):
            why = " It was killed, probably because memory ran out." if status == KILLED else ""
            raise DeviceError(
                f"{who}: the proof ended with status {status}.{why} Its last message: {engine.last_message_in(said)}"
            )
        store.fetch(connection, self._name, evidence)
        if not (evidence / PREDICTIONS).is_file():
            raise DeviceError(
                f"{who}: the image ended without a proof. Its last message: {engine.last_message_in(said)}"
            )
        with parsing_answer(self._device, "its proof"):
            report = self._work.judge(evidence / PREDICTIONS)
        self._delivered.report = report
        if not may_be_packaged(report, package_undecided=self._work.package_undecided):
            failure = GateFailed if report.verdict is Verdict.FAIL else GateUndecided
            raise failure(f"{who}: {verdict_text(report)}. Its image was removed from the device.")
        if status == NOT_PROVEN and report.verdict is Verdict.PASS:
            why = _device_document(evidence).get("reason", "it gives no reason")
            raise DeviceError(f"{who}: the gate passes, but the image rejects its model: {why}")
        return report

    def _clean_up(self, connection: Connection) -> None:
        """Clean up if the device allows it; the result of the work does not depend on it."""
        try:
            engine.clean(connection, self._name, self._container)
            store.forget_unused(connection, self._name)
        except DeployError as error:
            self._progress.detail(f"could not clean up: {error}")


def _device_document(evidence: Path) -> dict[str, Any]:
    """Return the device's own document on its proof, or an empty one if it is damaged."""
    try:
        raw = parse_json((evidence / DOCUMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}
