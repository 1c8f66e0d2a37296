"""A client of the Open Inference Protocol v2 for our containers: binary tensors over one connection."""

import http.client
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PackageError
from pipeline.untrusted import parse_json
from targets.device.model.manifest import Manifest
from targets.device.model.variant import MAIN
from targets.device.server.protocol import LENGTH_HEADER
from targets.device.settings import Settings

# Per request: the server's largest batch, and far fewer bytes than its limit.
MAX_IMAGES = Settings.max_batch
MAX_BODY_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Readiness:
    is_ready: bool
    has_failed: bool
    """The server reports that it will never be ready."""
    reason: str


class InferenceClient:
    """Client of one server with the model of `manifest`."""

    def __init__(self, host: str, port: int, manifest: Manifest, *, answer_seconds: float = 300.0) -> None:
        self.manifest = manifest
        self.url = f"http://{host}:{port}"
        self._connection = http.client.HTTPConnection(host, port, timeout=answer_seconds)

    def readiness(self) -> Readiness:
        """Return the server's own state; a server that does not respond yet is neither ready nor failed."""
        try:
            status, body, _ = self._ask("GET", "/v2/health/ready")
            raw = parse_json(body)
            return Readiness(
                is_ready=status == 200,
                has_failed=status != 200 and raw.get("loading") is False,
                reason=str(raw.get("error", "")),
            )
        except (OSError, http.client.HTTPException, ValueError):
            self._connection.close()
            return Readiness(is_ready=False, has_failed=False, reason="")

    def runs_on(self) -> tuple[str, str]:
        """Return runtime with version, and instruction set, of the machine that computes."""
        raw = self._json("GET", f"/v2/models/{self.manifest.name}")
        runtime, _, instruction_set = str(raw["parameters"]["runs_on"]).partition(" on ")
        return runtime, instruction_set

    def variant(self) -> str:
        """Return which of the image's models answers: `main` or `saturation_safe`; old images have only one."""
        raw = self._json("GET", f"/v2/models/{self.manifest.name}")
        return str(raw["parameters"].get("variant", MAIN))

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits [N, C] of preprocessed images [N, 3, H, W]; raise `PackageError` if the server refuses."""
        per_request = max(1, min(MAX_IMAGES, MAX_BODY_BYTES // images[0].nbytes))
        parts = [images[start : start + per_request] for start in range(0, len(images), per_request)]
        return np.concatenate([self._infer(part) for part in parts])

    def another(self) -> "InferenceClient":
        """Return a second client of the same server, with its own connection."""
        return InferenceClient(self._connection.host, self._connection.port, self.manifest)

    def close(self) -> None:
        self._connection.close()

    def _infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        tensor = np.ascontiguousarray(images, "<f4").tobytes()
        header = json.dumps(
            {
                "inputs": [
                    {
                        "name": "images",
                        "shape": list(images.shape),
                        "datatype": "FP32",
                        "parameters": {"binary_data_size": len(tensor)},
                    }
                ],
                "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
            }
        ).encode()
        path = f"/v2/models/{self.manifest.name}/infer"
        try:
            status, body, length = self._ask("POST", path, header + tensor, {LENGTH_HEADER: str(len(header))})
        except (OSError, http.client.HTTPException) as error:
            raise PackageError(f"the container at {self.url} stopped responding: {error!r}.") from None
        if status != 200:
            raise PackageError(f"the container at {self.url} refused {len(images)} images: {body.decode()[:500]}")
        (output,) = parse_json(body[:length])["outputs"]
        return np.frombuffer(body, "<f4", offset=length).reshape(output["shape"]).astype(np.float32)

    def _json(self, method: str, path: str) -> dict[str, Any]:
        try:
            status, body, _ = self._ask(method, path)
            if status != 200:
                raise PackageError(f"{self.url}{path} returned status {status}: {body.decode()[:500]}")
            raw: dict[str, Any] = parse_json(body)
            return raw
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PackageError(f"{self.url}{path} does not respond: {error!r}.") from None

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, int]:
        """Return status, body, and length of the JSON in it."""
        self._connection.request(method, path, body, headers or {})
        response = self._connection.getresponse()
        content = response.read()
        return response.status, content, int(response.headers.get(LENGTH_HEADER, len(content)))
