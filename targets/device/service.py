"""The one model of a device: loaded and proven in the background, then answering one request after the other."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from targets.device.cpu import instruction_set
from targets.device.golden import GoldenResult, check
from targets.device.manifest import Manifest, ManifestError
from targets.device.metrics import Metrics
from targets.device.proof import Proof, ProofError, read_proof
from targets.device.sessions import OnnxRuntimeSession, SessionError, open_session
from targets.device.settings import Settings
from targets.device.variant import MAIN, choose
from targets.device.worker import Job, Worker

LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")
STOP_SECONDS = 60.0
# Of a new measurement in the running mean: a device that gets hot and slow is noticed within some requests.
NEW_SHARE = 0.1


class NotReady(RuntimeError):
    """The model cannot be asked yet, or never will be; the message says why."""


@dataclass(frozen=True)
class Readiness:
    ready: bool
    loading: bool
    """False once the outcome is known."""
    reason: str
    """What is being waited for, or why the model will not answer; empty once it is ready."""


class Service:
    """Loads the artifact in `folder` as soon as it is made; `close` frees it."""

    def __init__(self, folder: Path, settings: Optional[Settings] = None, metrics: Optional[Metrics] = None) -> None:
        settings = Settings() if settings is None else settings
        self.folder = folder
        self.metrics = Metrics() if metrics is None else metrics
        self.manifest: Optional[Manifest] = None
        self.variant = MAIN
        """Which of the image's models runs here."""
        self.golden: Optional[GoldenResult] = None
        self.proof: Optional[Proof] = None
        """The gate's report that came with the model, where one did."""
        self.seconds_per_image = float("inf")
        """Running mean of what was measured here; infinite before the first request."""
        self._session: Optional[OnnxRuntimeSession] = None
        self._is_stopping = False
        try:
            chosen = choose(folder)
            self.folder, self.manifest, self.variant = chosen.folder, chosen.manifest, chosen.variant
            reason = ""
        except ManifestError as error:
            # No reason to stop: an unready server that names the reason is found more easily than a dead one.
            reason = str(error)
        self._worker = Worker(
            lambda: self._loaded(reason),
            batch_images=settings.batch_images,
            batch_delay_seconds=settings.batch_delay_ms / 1e3,
        )

    @property
    def readiness(self) -> Readiness:
        if self._is_stopping:
            return Readiness(False, False, "the server is stopping")
        loading = self._worker.loading
        if not loading.done():
            return Readiness(False, True, "the model is being loaded and checked against its golden images")
        error = loading.exception()
        if error is not None:
            return Readiness(False, False, str(error) or type(error).__name__)
        return Readiness(True, False, "")

    @property
    def place(self) -> str:
        """What runs the model here, as `onnxruntime 1.22.0 on avx2`."""
        return f"onnxruntime {onnxruntime.__version__} on {instruction_set()}"

    @property
    def is_idle(self) -> bool:
        """Nothing is run in the model's thread, and nothing waits for it."""
        return self._worker.is_idle

    @property
    def running(self) -> int:
        """A number for what the model's thread runs, another one for every run; 0: nothing."""
        return self._worker.running

    def loaded(self, seconds: float) -> None:
        """Wait until it is known whether the model will answer."""
        self._worker.loading.exception(seconds)

    def submit(
        self, prepare: Callable[[], NDArray[np.float32]], finish: Callable[[NDArray[np.float32]], Answer]
    ) -> Future[Answer]:
        """In the model's thread, after the requests before it: `prepare`, the model, `finish` on its logits."""
        return self._worker.submit(Job(prepare, finish))

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [N, C] of preprocessed images [N, 3, H, W]; raises `NotReady`."""
        session = self._session
        if session is None:
            raise NotReady(self.readiness.reason)
        start = time.perf_counter()
        logits = session.infer(images)
        seconds = time.perf_counter() - start
        self.metrics.inferred(len(images), seconds)
        mean, new = self.seconds_per_image, seconds / len(images)
        self.seconds_per_image = new if mean == float("inf") else mean + NEW_SHARE * (new - mean)
        return logits

    def stop(self) -> None:
        """Say from now on that it is not ready; what comes all the same is answered."""
        self._is_stopping = True

    def close(self, seconds: float = STOP_SECONDS) -> bool:
        """Free the model once the requests that came before are answered; False: they were not within `seconds`."""
        self.stop()
        if not self._worker.close(seconds):
            return False
        session, self._session = self._session, None
        if session is not None:
            session.close()
        return True

    def _loaded(self, reason: str) -> Service:
        """Itself, ready; the outcome is in the log, whatever it is."""
        try:
            self._load(reason)
        except NotReady as error:
            LOG.error("the model cannot be served", extra={"fields": {"reason": str(error)}})
            raise
        except BaseException as error:
            fields = {"reason": str(error)}
            LOG.error("the model cannot be served", exc_info=error, extra={"fields": fields})
            raise
        LOG.info("ready", extra={"fields": {"cpu_seconds_since_start": round(time.process_time(), 3)}})
        return self

    def _load(self, reason: str) -> None:
        """Open the model and let it repeat the golden answers; raises `NotReady`."""
        if self.manifest is None:
            raise NotReady(reason)
        try:
            self.proof = read_proof(self.folder, self.manifest)
            session = open_session(self.folder, self.manifest)
            result = check(session, self.folder, self.manifest)
        except (ManifestError, ProofError, SessionError) as error:
            raise NotReady(str(error)) from None
        self.golden = result
        if not result.matched:
            session.close()
            raise NotReady(result.reason)
        LOG.info("golden images match", extra={"fields": {"reason": result.reason}})
        self._session = session
