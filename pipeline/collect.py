"""Fetch a device's proof of the model it serves, judge its answers again here, and keep it beside the artifact.

What the device sends is not believed as it is: its report must be the one that its answers make with the very shard
that travelled in its image, and the model must be one that was built here.
"""

import json
import re
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pipeline.artifacts import AccuracyReport, Place, Verdict
from pipeline.context import MODEL
from pipeline.engine_audit import PLAN, EngineAudit, audit_engine
from pipeline.errors import DataError, DeviceError, RecipeError
from pipeline.foreign_json import parse_json
from pipeline.kept_proofs import keep_proof
from pipeline.predictions import Predictions, read_predictions
from pipeline.printable import on_one_line
from pipeline.publish import DEVICES, REPORT, shard_of
from pipeline.remote.device import is_host
from pipeline.validate import Terms, judge_with, read_terms
from targets.device.files import PREDICTIONS, SHARD
from targets.device.manifest import FILE as MANIFEST
from targets.device.manifest import ManifestError, read_manifest
from targets.device.shard import Shard, ShardError

SCHEMA = 1
SECONDS = 60.0
MOST_BYTES = 256 << 20
"""Of one answer: logits of a million images with 64 classes; nothing that claims to be more is read."""
MOST_JSON_BYTES = 16 << 20
"""Of a document, which takes up to some twenty times as much once it is parsed; an engine's layers take a few MB."""
MOST_SECONDS = 600.0
"""For one answer, however slowly it comes."""
PART = 1 << 16
SAME = 1e-9
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Of a device: it names a folder."""
PARTS = ("passport", "measurements", "layers", "comparison")


@dataclass(frozen=True, kw_only=True)
class Access:
    """How a server that asks for credentials is spoken to."""

    token: str | None = None
    authority: Path | None = None
    """PEM file of the authority that signed its certificate."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    report: AccuracyReport
    audit: EngineAudit | None
    """None where the device says nothing of its engine's layers."""
    folder: Path
    facts: Mapping[str, Any]
    """What the device said, as it said it."""
    note: str | None = None
    """Where the device judged itself by other terms than this host does."""


def collect(address: str, *, name: str, workspace: Path, access: Access) -> Collected:
    """Fetch from the server at `address`, such as http://orin:8000, and keep its proof as the device `name`.

    Raises `DeviceError` where it has none (yet), cannot be reached or is not believed.
    """
    if not NAME.fullmatch(name):
        raise RecipeError(f"--name {name!r} cannot be a device's: letters, digits, . _ and - are, such as orin-7.")
    # urllib reads files as well.
    check_address(address)
    facts = _json(address, _get(address, "/proof", access, most_bytes=MOST_JSON_BYTES))
    if facts.get("schema") != SCHEMA:
        raise DeviceError(
            f"the proof at {address} has schema {facts.get('schema')!r}, this version reads {SCHEMA}. Use the version "
            "that built the image."
        )
    if facts.get("report") is None:
        state, reason = facts.get("state"), facts.get("reason") or "it gives no reason"
        raise DeviceError(f"{address} has no proof to collect: it is {state} ({reason}).")
    with tempfile.TemporaryDirectory(prefix="edge-deploy-") as scratch:
        file = Path(scratch) / PREDICTIONS
        file.write_bytes(_get(address, f"/proof/{PREDICTIONS}", access))
        try:
            stored = read_predictions(file)
        except DataError as error:
            raise DeviceError(f"{address} sent predictions that cannot be used: {error}") from None
        published = find_published(workspace, stored.artifact_sha256, address)
        model = _model_in(published, stored.artifact_sha256, facts, address)
        report, note = _judged(published, model, stored, facts["report"], workspace=workspace, address=address)
        _check_state(facts, report, address)
        for part in PARTS:
            if facts.get(part) is not None:
                (Path(scratch) / f"{part}.json").write_text(_pretty(facts[part]), encoding="utf-8")
        place = keep_proof(published / DEVICES / name, Path(scratch), report)
        layers = facts.get("layers")
        audit = None if layers is None or not (model / PLAN).is_file() else audit_engine(model, layers)
        return Collected(report=report, audit=audit, folder=place, facts=facts, note=note)


def find_published(workspace: Path, artifact_sha256: str, address: str) -> Path:
    """The published artifact that has this model, itself or beside it; raises `DeviceError` where none has."""
    for pattern in ("artifacts/*", "artifacts/*/*"):
        for folder in sorted(workspace.glob(pattern)):
            try:
                if read_manifest(folder).model_sha256 == artifact_sha256:
                    return folder if pattern == "artifacts/*" else folder.parent
            except ManifestError:
                continue
    raise DeviceError(
        f"{address} runs the model {artifact_sha256[:16]}..., and no artifact in {workspace} is that one. Name the "
        "workspace it was built in (--workspace)."
    )


def _model_in(published: Path, sha256: str, facts: Mapping[str, Any], address: str) -> Path:
    """The artifact's folder, or that of the model beside it.

    The hash is not enough: before TensorRT 10.12 fp16 and fp32 are built from the same file.
    """
    precision = facts.get("precision")
    for folder in (published, *sorted(path.parent for path in published.glob(f"*/{MANIFEST}"))):
        manifest = read_manifest(folder)
        if (manifest.model_sha256, manifest.precision) == (sha256, precision):
            return folder
    raise DeviceError(
        f"{address} runs the model {sha256[:16]}... in {precision!r}, and {published} has it in no such precision. "
        "Nothing was kept."
    )


def _check_state(facts: Mapping[str, Any], report: AccuracyReport, address: str) -> None:
    """A model that passes the gate may be refuted by its golden images."""
    if report.verdict is Verdict.PASS and facts.get("state") != "proven":
        raise DeviceError(
            f"{address} passes the gate, but does not call its engine proven: {facts.get('reason')} Nothing was kept."
        )


def check_address(address: str) -> SplitResult:
    """The parts of a server's address; raises `DeviceError` for one that is none."""
    wrong = DeviceError(f"{_shown(address)} is no address of a server; give one such as http://orin.local:8000.")
    try:
        found = urlsplit(address)
        # Out of range it raises.
        port = found.port
    except ValueError:
        raise wrong from None
    if found.scheme not in ("http", "https") or not is_host(found.hostname or "") or port == 0:
        raise wrong
    return found


def device_name(address: str) -> str:
    """What a device is called that nobody named: its host, and its port where that is not the usual one."""
    found = check_address(address)
    port = f"-{found.port}" if found.port not in (None, 80, 443, 8000) else ""
    return re.sub(r"[^A-Za-z0-9.-]", "-", f"{found.hostname}{port}")


def _judged(
    published: Path, model: Path, stored: Predictions, claimed: Mapping[str, Any], *, workspace: Path, address: str
) -> tuple[AccuracyReport, str | None]:
    """This host's report on the device's answers, and what is to be said of the device's own.

    Margin and confidence are those of the report that this host published: a device does not set its own.
    """
    shard = _shard_of(published, workspace, stored.shard_sha256, address)
    terms = read_terms(model / REPORT)
    report = judge_with(shard, stored, target=read_manifest(published).target, place=Place.DEVICE, terms=terms)
    try:
        note = _other_terms(claimed, terms, address)
        fields = ("images", "lost", "won", "drop_points", *(() if note else ("verdict",)))
        differing = [field for field in fields if not _alike(claimed[field], getattr(report, field))]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DeviceError(
            f"the report of {address} lacks or has a wrong value: {error!r}. Update its image."
        ) from None
    if differing:
        raise DeviceError(
            f"the report of {address} is not what its answers make: {', '.join(differing)} differ (it says "
            f"{_shown(claimed['verdict'])}, drop {_shown(claimed['drop_points'])}; here {report.verdict}, "
            f"{report.drop_points:+.2f}). Nothing was kept."
        )
    return report, note


def _other_terms(claimed: Mapping[str, Any], terms: Terms, address: str) -> str | None:
    margin, confidence = _points(claimed["max_drop_points"]), claimed.get("confidence", terms.confidence)
    if _alike(margin, terms.max_drop) and _alike(confidence, terms.confidence):
        return None
    return (
        f"{address} judged itself by a margin of {margin:g} points (confidence {_shown(confidence)}); it is judged by "
        f"this host's, {terms.max_drop:g} points (confidence {terms.confidence:g})"
    )


def _shown(value: object) -> str:
    return on_one_line(str(value), longest=40)


def _points(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
        raise ValueError(f"{_shown(value)} is no margin in points")
    return float(value)


def _alike(claimed: object, found: object) -> bool:
    if isinstance(found, float) and isinstance(claimed, int | float):
        return abs(claimed - found) < SAME
    return claimed == found


def _shard_of(published: Path, workspace: Path, sha256: str, address: str) -> Path:
    """The gate's shard, or the part of it that travelled in the image."""
    travelled = workspace / "context" / published.name / MODEL / SHARD
    for path in (shard_of(published), travelled):
        try:
            with Shard(path) as shard:
                if shard.sha256 == sha256:
                    return path
        except ShardError:
            continue
    raise DeviceError(
        f"{address} was judged on the shard {sha256[:16]}..., which is neither that of {published} nor the part of it "
        "that its image holds. Build the image again, or collect where it was built."
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A server of ours never redirects, and urllib would hand the token to whatever host it is sent to."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None


def _get(address: str, path: str, access: Access, *, most_bytes: int = MOST_BYTES) -> bytes:
    request = urllib.request.Request(address.rstrip("/") + path)
    if access.token is not None:
        request.add_header("Authorization", f"Bearer {access.token}")
    try:
        tls = ssl.create_default_context(cafile=None if access.authority is None else str(access.authority))
        opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=tls))
        with opener.open(request, timeout=SECONDS) as answer:
            contents = _read(answer, address + path, most_bytes)
    except urllib.error.HTTPError as error:
        if 300 <= error.code < 400:
            to = _shown(error.headers.get("Location", "nowhere"))
            raise DeviceError(
                f"{address}{path} sends on to {to}, which is not followed. Give the device's own address."
            ) from None
        cures = {401: " Give its token (--token-file).", 404: " Its image is of a version without proofs."}
        raise DeviceError(f"{address}{path} answers {error.code} {error.reason}.{cures.get(error.code, '')}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise DeviceError(f"{address} cannot be asked: {reason}. Is its server up, and its port published?") from None
    if len(contents) > most_bytes:
        raise DeviceError(f"{address}{path} answers more than {most_bytes >> 20} MiB; nothing was kept.")
    return contents


def _read(answer: Any, what: str, most_bytes: int) -> bytes:
    """All of an answer; raises `DeviceError` where it is too large, or does not end."""
    parts, size, deadline = list[bytes](), 0, time.monotonic() + MOST_SECONDS
    while part := answer.read1(PART):
        parts.append(part)
        size += len(part)
        if size > most_bytes:
            break
        if time.monotonic() > deadline:
            raise DeviceError(
                f"{what} has sent {size:,} bytes in {MOST_SECONDS:.0f} s and does not end; nothing was kept."
            )
    return b"".join(parts)


def _json(address: str, contents: bytes) -> dict[str, Any]:
    try:
        raw = parse_json(contents)
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        raise DeviceError(f"{address}/proof answers no JSON object. Is that a server of ours?")
    return raw


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"
