"""`report.json`: what the gate said of this very model when its image was built; it travels in the image."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from targets.device.gate import FAIL, PASS, UNDECIDED
from targets.device.manifest import Manifest

FILE = "report.json"


class ProofError(ValueError):
    """The report cannot be read, or is about another model than the one beside it."""


@dataclass(frozen=True)
class Proof:
    """The gate's report, as far as a device tells of it; the meanings are those of `targets.device.gate.Judgement`."""

    verdict: str
    place: str
    """Where the artifact answered: `host` is the building host."""
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
    """The how-manieth artifact of this model it is that the gate's images judged; None where a device judged."""


def read_proof(folder: Path, manifest: Manifest) -> Optional[Proof]:
    """The report in a model folder, or None where there is none; raises `ProofError` for one not to be believed."""
    raw = read_report(folder, manifest)
    return None if raw is None else proof_from(raw)


def read_report(folder: Path, manifest: Manifest) -> Optional[Dict[str, Any]]:
    """All that the file says, as it is, once `read_proof` believes it."""
    path = folder / FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ProofError(f"{path} cannot be read: {error}. Build the image again.") from None
    if not isinstance(raw, dict):
        raise ProofError(f"{path} holds no JSON object. Build the image again.")
    try:
        proof = proof_from(raw)
    except KeyError as error:
        raise ProofError(f"{path} lacks {error.args[0]}. Build the image again.") from None
    except ValueError as error:
        raise ProofError(f"{path} has a wrong value: {error}. Build the image again.") from None
    if proof.artifact_sha256 != manifest.model_sha256:
        raise ProofError(
            f"{path} is about the model {proof.artifact_sha256[:16]}..., the manifest beside it describes "
            f"{manifest.model_sha256[:16]}.... Build the image again."
        )
    return raw


def proof_from(raw: Dict[str, Any]) -> Proof:
    """Of a report as JSON has it; raises `KeyError` or `ValueError` for one that is none."""
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
        raise ValueError(f"{name} is {value!r}, not a text")
    return value


def _count(raw: Dict[str, Any], name: str) -> int:
    value = raw[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}, not a whole number from 1")
    return value


def _number(raw: Dict[str, Any], name: str) -> float:
    return _finite(raw[name], name)


def _share(raw: Dict[str, Any], name: str) -> float:
    value = _number(raw, name)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}, not a share from 0 to 1")
    return value


def _interval(raw: Dict[str, Any], name: str) -> Tuple[float, float]:
    value = raw[name]
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{name} is {value!r}, not two numbers")
    low, high = (_finite(each, name) for each in value)
    if low > high:
        raise ValueError(f"{name} is {value!r}, whose ends are the wrong way round")
    return low, high


def _finite(value: object, name: str) -> float:
    # True is a number to Python, and what it reads as JSON may be NaN or an integer that no float can hold.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {value!r}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}, not a finite number")
    return number
