"""`manifest.json`: the description of an artifact, its inputs and its runtime."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

from targets.device.model.preprocess import Preprocessing

SCHEMA = 1
FILE = "manifest.json"
CHUNK = 1 << 20
ONNXRUNTIME, TENSORRT = "onnxruntime", "tensorrt"
"""Valid names of a runtime."""

Option = Union[str, int]


class ManifestError(ValueError):
    """The manifest is missing, damaged, of another schema, or does not match its model."""


@dataclass(frozen=True)
class Manifest:
    """The description of an artifact folder."""

    schema: int
    name: str
    version: str
    target: str
    runtime: str
    runtime_version: str
    """Version of the runtime it was compiled, audited and measured with."""
    model_file: str
    """Relative to the folder."""
    model_sha256: str
    precision: str
    weight_bits: Optional[int]
    """7 or 8 for int8, otherwise None."""
    input_shape: Tuple[int, int, int]
    """Channels, height, width."""
    classes: Tuple[str, ...]
    """In the order of the logits."""
    preprocessing: Preprocessing
    session_options: Dict[str, Option]
    instruction_set: str
    """Best instruction set of the CPU that computed the golden logits."""
    tolerance: float
    """Largest allowed difference from a golden logit on the same instruction set, as a fraction of their range."""

    def to_json(self) -> str:
        raw = asdict(self)
        raw["preprocessing"] = self.preprocessing.to_dict()
        return json.dumps(raw, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(self.to_json(), encoding="utf-8")

    def model_path(self, folder: Path) -> Path:
        """Return the model's path after checking its SHA-256; raise `ManifestError`."""
        path = folder / self.model_file
        if not path.is_file():
            raise ManifestError(f"the artifact {folder} has no model file {self.model_file}. Copy it again.")
        found = sha256_of(path)
        if found != self.model_sha256:
            raise ManifestError(
                f"{path} is not the model its manifest describes: its SHA-256 is {found[:16]}..., "
                f"the manifest says {self.model_sha256[:16]}.... Copy the artifact again."
            )
        return path


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json` of an artifact folder; raise `ManifestError` if it is missing or invalid."""
    path = folder / FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(f"{folder} is not an artifact: it has no {FILE}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path} cannot be read: {error}. Copy the artifact again.") from None
    if not isinstance(raw, dict):
        raise ManifestError(f"{path} is not a JSON object. Copy the artifact again.")
    if raw.get("schema") != SCHEMA:
        raise ManifestError(
            f"{path} has schema {raw.get('schema')!r}, but this version supports schema {SCHEMA}. "
            "Build the artifact again, or use the version that wrote it."
        )
    return _from_json(path, raw)


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _from_json(path: Path, raw: Dict[str, Any]) -> Manifest:
    known = {field.name for field in fields(Manifest)}
    if set(raw) != known:
        wrong = ", ".join(sorted(set(raw) ^ known))
        raise ManifestError(f"{path} has unknown or missing entries: {wrong}. Copy the artifact again.")
    model_file = raw["model_file"]
    if not isinstance(model_file, str) or Path(model_file).name != model_file or "\\" in model_file:
        raise ManifestError(f"{path} names the model file {model_file!r}, which is not a file name without a path.")
    try:
        channels, height, width = raw["input_shape"]
        parsed = {
            "input_shape": (int(channels), int(height), int(width)),
            "classes": tuple(raw["classes"]),
            "preprocessing": Preprocessing.from_dict(raw["preprocessing"]),
            "tolerance": float(raw["tolerance"]),
        }
    except (ValueError, TypeError, KeyError) as error:
        raise ManifestError(f"{path} has an invalid value: {error}. Copy the artifact again.") from None
    return Manifest(**{**raw, **parsed})
