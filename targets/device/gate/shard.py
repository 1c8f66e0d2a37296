"""A shard: the gate's images, labels and float logits in one file, so that every place makes the same report.

`shard.zip`, without compression: the original files `images/<i>.<ext>`, `labels.npy` int64 [N], `logits.npy`
float32 [N, C] of the float baseline, `shard.json` with schema, classes, preprocessing, the SHA-256 of every file
and, over all of that, the shard's own. If the dataset has groups, `groups` has each image's.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type

import numpy as np
from numpy.typing import NDArray

from targets.device.model.preprocess import Preprocessing

SCHEMA = 1
FACTS = "shard.json"
LABELS = "labels.npy"
LOGITS = "logits.npy"
CURE = "Copy it again, or write it again with `deploy build`."


class ShardError(ValueError):
    """The shard is missing, damaged, of another schema, or not the one that is needed."""


class Shard:
    """An open shard; labels and logits are read and verified on opening, images on access."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise ShardError(f"there is no shard {path}. `deploy build` writes it next to the artifact.") from None
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            raise ShardError(f"the shard {path} is truncated or damaged: {error}. {CURE}") from None
        try:
            self._read_facts()
        except BaseException:
            self._archive.close()
            raise

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        """Return the bytes of one image's file."""
        name, sha256 = self._images[index]
        return self._verify(name, sha256)

    def close(self) -> None:
        self._archive.close()

    def __enter__(self) -> Shard:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def _read_facts(self) -> None:
        raw = self._parse(self._bytes_of(FACTS))
        try:
            self.sha256: str = raw["sha256"]
            self.classes: Tuple[str, ...] = tuple(raw["classes"])
            self.preprocessing = Preprocessing.from_dict(raw["preprocessing"])
            self._images: List[Tuple[str, str]] = [(str(name), str(sha256)) for name, sha256 in raw["images"]]
            self.groups: Tuple[str, ...] = tuple(str(name) for name in raw.get("groups", ()))
            of_labels, of_logits = raw["files"][LABELS], raw["files"][LOGITS]
        except (KeyError, TypeError, ValueError) as error:
            raise self._damage_error(f"{FACTS} has an invalid or missing entry ({error})") from None
        self.labels: NDArray[np.int64] = self._array(LABELS, of_labels, np.dtype(np.int64))
        self.logits: NDArray[np.float32] = self._array(LOGITS, of_logits, np.dtype(np.float32))
        self._check_shapes()

    def _parse(self, data: bytes) -> Dict[str, Any]:
        try:
            raw = json.loads(data)
        except ValueError as error:
            raise self._damage_error(f"{FACTS} is not valid JSON ({error})") from None
        if not isinstance(raw, dict):
            raise self._damage_error(f"{FACTS} is not a JSON object")
        if raw.get("schema") != SCHEMA:
            raise ShardError(
                f"the shard {self.path} has schema {raw.get('schema')!r}, but this version supports schema {SCHEMA}. "
                "Use the version that wrote it, or write it again with `deploy build`."
            )
        if raw.get("sha256") != shard_sha256(raw):
            raise self._damage_error(f"{FACTS} does not match its own hash")
        return raw

    def _check_shapes(self) -> None:
        count, classes = len(self._images), len(self.classes)
        if self.labels.shape != (count,) or self.logits.shape != (count, classes):
            raise self._damage_error(
                f"{count} images and {classes} classes, but labels {list(self.labels.shape)} "
                f"and logits {list(self.logits.shape)}"
            )
        if len(self.groups) not in (0, count):
            raise self._damage_error(f"{count} images, but groups of {len(self.groups)}")
        if count and (self.labels.min() < 0 or self.labels.max() >= classes):
            raise self._damage_error(f"labels from {self.labels.min()} to {self.labels.max()} for {classes} classes")

    def _array(self, name: str, sha256: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        try:
            array: NDArray[Any] = np.load(io.BytesIO(self._verify(name, sha256)), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            if isinstance(error, ShardError):
                raise
            raise self._damage_error(f"{name} is not an array ({error})") from None
        if array.dtype != dtype:
            raise self._damage_error(f"{name} is {array.dtype}, not {dtype}")
        return array

    def _verify(self, name: str, sha256: str) -> bytes:
        data = self._bytes_of(name)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise self._damage_error(f"{name} does not match its hash in {FACTS}")
        return data

    def _bytes_of(self, name: str) -> bytes:
        try:
            return self._archive.read(name)
        except KeyError:
            raise self._damage_error(f"it has no {name}") from None
        except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            raise self._damage_error(f"{name} cannot be read ({error})") from None

    def _damage_error(self, reason: str) -> ShardError:
        return ShardError(f"the shard {self.path} is damaged: {reason}. {CURE}")


def shard_sha256(facts: Mapping[str, object]) -> str:
    """Return the hex SHA-256 of a shard's facts without `sha256`; they contain every file's hash, so it covers all."""
    rest = {name: value for name, value in facts.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
