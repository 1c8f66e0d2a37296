"""Fetch a device's proof of the model it serves, judge its answers again here, and keep it beside the artifact.

The device's data is not trusted: its report must match its answers, judged with the same shard that its image
contains, and the model must be one that was built here.
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
from pipeline.compile.engine_audit import PLAN, EngineAudit, audit_engine
from pipeline.devices.inventory import is_host
from pipeline.errors import DataError, DeviceError, RecipeError
from pipeline.package.build_context import MODEL
from pipeline.untrusted import on_one_line, parse_json
from pipeline.validate.judge import Terms, judge_with, read_terms
from pipeline.validate.predictions import Predictions, read_predictions
from pipeline.validate.published import DEVICES, REPORT, keep_proof, shard_of
from targets.device.files import PREDICTIONS, SHARD
from targets.device.gate.shard import Shard, ShardError
from targets.device.model.manifest import FILE as MANIFEST
from targets.device.model.manifest import ManifestError, read_manifest

SCHEMA = 1
SECONDS = 60.0
MAX_BYTES = 256 << 20
"""For one response: logits of a million images with 64 classes; larger ones are not read."""
MAX_JSON_BYTES = 16 << 20
"""For a document, which takes up to twenty times as much once it is parsed; an engine's layers take a few MB."""
MAX_SECONDS = 600.0
"""For one response, however slowly it arrives."""
PART = 1 << 16
SAME = 1e-9
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Of a device; used as a folder name."""
PARTS = ("passport", "measurements", "layers", "comparison")


@dataclass(frozen=True, kw_only=True)
class Access:
    """Credentials and certificate authority for a server."""

    token: str | None = None
    authority: Path | None = None
    """PEM file of the authority that signed the server's certificate."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    report: AccuracyReport
    audit: EngineAudit | None
    """None if the device does not report its engine's layers."""
    folder: Path
    facts: Mapping[str, Any]
    """The device's own facts, unchanged."""
    note: str | None = None
    """Set if the device judged itself by other terms than this host."""


def collect(address: str, *, name: str, workspace: Path, access: Access) -> Collected:
    """Fetch from the server at `address`, such as http://orin:8000, and keep its proof as the device `name`.

    Raises `DeviceError` if it has no proof (yet), cannot be reached, or its proof is not valid.
    """
    if not NAME.fullmatch(name):
        raise RecipeError(f"--name {name!r} is not valid: use letters, digits, . _ and -, such as orin-7.")
    # urllib would also read local files.
    check_address(address)
    facts = _json(address, _get(address, "/proof", access, most_bytes=MAX_JSON_BYTES))
    if facts.get("schema") != SCHEMA:
        raise DeviceError(
            f"the proof at {address} has schema {facts.get('schema')!r}, this version supports {SCHEMA}. Use the "
            "version that built the image."
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
        report, note = _judge(published, model, stored, facts["report"], workspace=workspace, address=address)
        _check_state(facts, report, address)
        for part in PARTS:
            if facts.get(part) is not None:
                (Path(scratch) / f"{part}.json").write_text(_pretty(facts[part]), encoding="utf-8")
        place = keep_proof(published / DEVICES / name, Path(scratch), report)
        layers = facts.get("layers")
        audit = None if layers is None or not (model / PLAN).is_file() else audit_engine(model, layers)
        return Collected(report=report, audit=audit, folder=place, facts=facts, note=note)


def find_published(workspace: Path, artifact_sha256: str, address: str) -> Path:
    """Return the published artifact with this model, main or alternative; raise `DeviceError` if there is none."""
    for pattern in ("artifacts/*", "artifacts/*/*"):
        for folder in sorted(workspace.glob(pattern)):
            try:
                if read_manifest(folder).model_sha256 == artifact_sha256:
                    return folder if pattern == "artifacts/*" else folder.parent
            except ManifestError:
                continue
    raise DeviceError(
        f"{address} runs the model {artifact_sha256[:16]}..., which no artifact in {workspace} has. Give the "
        "workspace it was built in (--workspace)."
    )


def _model_in(published: Path, sha256: str, facts: Mapping[str, Any], address: str) -> Path:
    """Return the artifact's folder, or that of the alternative model in it.

    The hash is not enough: before TensorRT 10.12 fp16 and fp32 are built from the same file.
    """
    precision = facts.get("precision")
    for folder in (published, *sorted(path.parent for path in published.glob(f"*/{MANIFEST}"))):
        manifest = read_manifest(folder)
        if (manifest.model_sha256, manifest.precision) == (sha256, precision):
            return folder
    raise DeviceError(
        f"{address} runs the model {sha256[:16]}... in {precision!r}, but {published} does not have it in that "
        "precision. Nothing was kept."
    )


def _check_state(facts: Mapping[str, Any], report: AccuracyReport, address: str) -> None:
    """Raise `DeviceError` for a model that passes the gate but fails its golden images."""
    if report.verdict is Verdict.PASS and facts.get("state") != "proven":
        raise DeviceError(
            f"{address} passes the gate, but reports its engine as not proven: {facts.get('reason')} Nothing was kept."
        )


def check_address(address: str) -> SplitResult:
    """Return the parts of a server's address; raise `DeviceError` for an invalid one."""
    wrong = DeviceError(f"{_shown(address)} is not a server's address; give one such as http://orin.local:8000.")
    try:
        found = urlsplit(address)
        # Raises for a port out of range.
        port = found.port
    except ValueError:
        raise wrong from None
    if found.scheme not in ("http", "https") or not is_host(found.hostname or "") or port == 0:
        raise wrong
    return found


def device_name(address: str) -> str:
    """Return the default name of a device: its host, and its port if that is not the usual one."""
    found = check_address(address)
    port = f"-{found.port}" if found.port not in (None, 80, 443, 8000) else ""
    return re.sub(r"[^A-Za-z0-9.-]", "-", f"{found.hostname}{port}")


def _judge(
    published: Path, model: Path, stored: Predictions, claimed: Mapping[str, Any], *, workspace: Path, address: str
) -> tuple[AccuracyReport, str | None]:
    """Return this host's report on the device's answers, and a note on the device's own terms.

    Margin and confidence are those of the report published by this host: a device does not choose its own.
    """
    shard = _shard_of(published, workspace, stored.shard_sha256, address)
    terms = read_terms(model / REPORT)
    report = judge_with(shard, stored, target=read_manifest(published).target, place=Place.DEVICE, terms=terms)
    try:
        note = _other_terms(claimed, terms, address)
        fields = ("images", "lost", "won", "drop_points", *(() if note else ("verdict",)))
        differing = [field for field in fields if not _is_equal(claimed[field], getattr(report, field))]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DeviceError(
            f"the report of {address} has a missing or wrong value: {error!r}. Update its image."
        ) from None
    if differing:
        raise DeviceError(
            f"the report of {address} does not match its answers: {', '.join(differing)} differ (it says "
            f"{_shown(claimed['verdict'])}, drop {_shown(claimed['drop_points'])}; here {report.verdict}, "
            f"{report.drop_points:+.2f}). Nothing was kept."
        )
    return report, note


def _other_terms(claimed: Mapping[str, Any], terms: Terms, address: str) -> str | None:
    margin, confidence = _points(claimed["max_drop_points"]), claimed.get("confidence", terms.confidence)
    if _is_equal(margin, terms.max_drop) and _is_equal(confidence, terms.confidence):
        return None
    return (
        f"{address} judged itself with a margin of {margin:g} points (confidence {_shown(confidence)}); this host "
        f"judges it with {terms.max_drop:g} points (confidence {terms.confidence:g})"
    )


def _shown(value: object) -> str:
    return on_one_line(str(value), longest=40)


def _points(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
        raise ValueError(f"{_shown(value)} is not a margin in points")
    return float(value)


def _is_equal(claimed: object, found: object) -> bool:
    if isinstance(found, float) and isinstance(claimed, int | float):
        return abs(claimed - found) < SAME
    return claimed == found


def _shard_of(published: Path, workspace: Path, sha256: str, address: str) -> Path:
    """Return the gate's shard, or the part of it that is in the image."""
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
        "in its image. Build the image again, or collect on the machine where it was built."
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects are refused: our servers never redirect, and urllib would send the token to any host."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None


def _get(address: str, path: str, access: Access, *, most_bytes: int = MAX_BYTES) -> bytes:
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
                f"{address}{path} redirects to {to}, which is not followed. Give the device's own address."
            ) from None
        cures = {401: " Give its token (--token-file).", 404: " Its image is from a version without proofs."}
        raise DeviceError(f"{address}{path} returns {error.code} {error.reason}.{cures.get(error.code, '')}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise DeviceError(f"{address} does not respond: {reason}. Is its server up, and its port published?") from None
    if len(contents) > most_bytes:
        raise DeviceError(f"{address}{path} returns more than {most_bytes >> 20} MiB; nothing was kept.")
    return contents


def _read(answer: Any, what: str, most_bytes: int) -> bytes:
    """Return the whole response; raise `DeviceError` if it is too large or does not end."""
    parts, size, deadline = list[bytes](), 0, time.monotonic() + MAX_SECONDS
    while part := answer.read1(PART):
        parts.append(part)
        size += len(part)
        if size > most_bytes:
            break
        if time.monotonic() > deadline:
            raise DeviceError(
                f"{what} has sent {size:,} bytes in {MAX_SECONDS:.0f} s without an end; nothing was kept."
            )
    return b"".join(parts)


def _json(address: str, contents: bytes) -> dict[str, Any]:
    try:
        raw = parse_json(contents)
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        raise DeviceError(f"{address}/proof does not return a JSON object. Is it a server of Edge Deploy?")
    return raw


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"
