"""`report.json`: the gate's report on this model from the build; it is part of the image."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from targets.device.gate.judge import FAIL, PASS, UNDECIDED
from targets.device.model.manifest import Manifest

FILE = "report.json"


class ProofError(ValueError):
    """The report cannot be read, or is about another model."""


@dataclass(frozen=True)
class Proof:
    """The part of the gate's report that a device shows; for the fields see `gate.judge.Judgement`."""

    verdict: str
    place: str
    """Where the artifact ran: `host` is the build host."""
    images: int
    float_top1: float
    artifact_top1: float
    drop_points: float
    drop_interval_points: Tuple[float, float]
    max_drop_points: float
    flip_rate: float
    worst_class: str
    worst_class_drop_points: float
    shard_sha256: str
    artifact_sha256: str
    instruction_set: str
    runtime: str
    gate_looks: Optional[int] = None
    """How many artifacts of this model the gate's images have judged, including this one; None from a device."""


def read_proof(folder: Path, manifest: Manifest) -> Optional[Proof]:
    """Return the report in a model folder, or None if there is none; raise `ProofError` if it is invalid."""
    raw = read_report(folder, manifest)
    return None if raw is None else proof_from(raw)


def read_report(folder: Path, manifest: Manifest) -> Optional[Dict[str, Any]]:
    """Return the report as raw JSON after validation; None if there is none, raise `ProofError` if it is invalid."""
    path = folder / FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ProofError(f"{path} cannot be read: {error}. Build the image again.") from None
    if not isinstance(raw, dict):
        raise ProofError(f"{path} is not a JSON object. Build the image again.")
    try:
        proof = proof_from(raw)
    except KeyError as error:
        raise ProofError(f"{path} has no entry {error.args[0]}. Build the image again.") from None
    except ValueError as error:
        raise ProofError(f"{path} has an invalid value: {error}. Build the image again.") from None
    if proof.artifact_sha256 != manifest.model_sha256:
        raise ProofError(
            f"{path} is about the model {proof.artifact_sha256[:16]}..., but the manifest describes "
            f"{manifest.model_sha256[:16]}.... Build the image again."
        )
    return raw


def proof_from(raw: Dict[str, Any]) -> Proof:
    """Parse a report from JSON; raise `KeyError` or `ValueError` if it is invalid."""
    if raw["verdict"] not in (PASS, FAIL, UNDECIDED):
        raise ValueError(f"verdict is {raw['verdict']!r}, not {PASS}, {FAIL} or {UNDECIDED}")
    return Proof(
        verdict=raw["verdict"],
        place=_text(raw, "place"),
        images=_count(raw, "images"),
        float_top1=_share(raw, "float_top1"),
        artifact_top1=_share(raw, "artifact_top1"),
        drop_points=_number(raw, "drop_points"),
        drop_interval_points=_interval(raw, "drop_interval_points"),
        max_drop_points=_number(raw, "max_drop_points"),
        flip_rate=_share(raw, "flip_rate"),
        worst_class=_text(raw, "worst_class"),
        worst_class_drop_points=_number(raw, "worst_class_drop_points"),
        shard_sha256=_text(raw, "shard_sha256"),
        artifact_sha256=_text(raw, "artifact_sha256"),
        instruction_set=_text(raw, "instruction_set"),
        runtime=_text(raw, "runtime"),
        gate_looks=_count(raw, "gate_looks") if "gate_looks" in raw else None,
    )


def _text(raw: Dict[str, Any], name: str) -> str:
    value = raw[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, not a string")
    return value


def _count(raw: Dict[str, Any], name: str) -> int:
    value = raw[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}, not an integer of at least 1")
    return value


def _number(raw: Dict[str, Any], name: str) -> float:
    return _finite(raw[name], name)


def _share(raw: Dict[str, Any], name: str) -> float:
    value = _number(raw, name)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}, not a fraction from 0 to 1")
    return value


def _interval(raw: Dict[str, Any], name: str) -> Tuple[float, float]:
    value = raw[name]
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{name} is {value!r}, not two numbers")
    low, high = (_finite(each, name) for each in value)
    if low > high:
        raise ValueError(f"{name} is {value!r}, whose lower end is above the upper one")
    return low, high


def _finite(value: object, name: str) -> float:
    # bool is a subclass of int, and Python's JSON may contain NaN or integers too large for a float.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {value!r}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}, not a finite number")
    return number
