"""The model of a device: loaded and proven in the background, then run for each request."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional, Tuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from targets.device.errors import ModelError
from targets.device.files import SHARD
from targets.device.gate.report import Proof, ProofError, proof_from, read_proof
from targets.device.gate.run import MeasureError
from targets.device.gate.shard import ShardError
from targets.device.gate.started import Started
from targets.device.model.golden import GoldenResult
from targets.device.model.image_files import ImageError
from targets.device.model.manifest import TENSORRT, Manifest, ManifestError
from targets.device.model.session import Session
from targets.device.model.variant import MAIN, Chosen, choose
from targets.device.progress import Progress, Stopped
from targets.device.server import start_onnxruntime as ort_start
from targets.device.server.cores import cores_allowed
from targets.device.server.metrics import Metrics
from targets.device.server.worker import Job, Worker
from targets.device.settings import Settings

LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")
STOP_SECONDS = 60.0
# Weight of a new measurement in the running mean: throttling shows within a few requests.
NEW_SHARE = 0.1
# Errors that keep a model from being served, with a message for the operator.
REFUSALS = (ModelError, ManifestError, ProofError, ShardError, ImageError, MeasureError)


class NotReady(RuntimeError):
    """The model is not ready yet, or cannot be served; the message says why."""


@dataclass(frozen=True)
class Readiness:
    ready: bool
    loading: bool
    """False after loading succeeded or failed."""
    reason: str
    """The current step of loading, or why the model is not served; empty if it is ready."""


class Service:
    """The artifact in `folder`, loaded on construction; `close` frees it."""

    def __init__(self, folder: Path, settings: Optional[Settings] = None, metrics: Optional[Metrics] = None) -> None:
        self._settings = settings = Settings() if settings is None else settings
        self.folder = folder
        self.metrics = Metrics() if metrics is None else metrics
        self.manifest: Optional[Manifest] = None
        self.variant = MAIN
        """The variant of the image's model that runs here."""
        self.variant_reason = ""
        self.golden: Optional[GoldenResult] = None
        self.proof: Optional[Proof] = None
        """The gate's report that came with the model, if any; on a GPU later the one made here."""
        self.started: Optional[Started] = None
        """Results of the start, even if the model is not served because of them."""
        self.seconds_per_image = float("inf")
        """Running mean of the measured time; infinite before the first request."""
        self.progress = Progress(lambda: self._is_stopping)
        self._session: Optional[Session] = None
        self._is_stopping = False
        chosen, reason = None, ""
        try:
            chosen = choose(folder)
            self._set_chosen(chosen)
        except ManifestError as error:
            # The server keeps running: an unready server that reports the reason is easier to find than a dead one.
            reason = str(error)
        self._worker = Worker(
            lambda: self._load_and_log(chosen, reason),
            threads=1 if chosen is None else _instances(chosen.manifest, settings),
            batch_images=settings.batch_images,
            batch_delay_seconds=settings.batch_delay_ms / 1e3,
        )

    @property
    def readiness(self) -> Readiness:
        if self._is_stopping:
            return Readiness(False, False, "the server is stopping")
        loading = self._worker.loading
        if not loading.done():
            return Readiness(False, True, self.progress.words)
        error = loading.exception()
        if error is not None:
            return Readiness(False, False, str(error) or type(error).__name__)
        return Readiness(True, False, "")

    @property
    def place(self) -> str:
        """Runtime and instruction set, e.g. `onnxruntime 1.22.0 on avx2`; only the runtime's name until known."""
        if self.started is not None:
            return self.started.place
        return "nothing" if self.manifest is None else self.manifest.runtime

    @property
    def comparison(self) -> str:
        """Why this precision is the fastest here, in one sentence; empty if none were compared."""
        found = None if self.started is None else self.started.comparison
        return "" if found is None else str(found["text"])

    @property
    def is_idle(self) -> bool:
        """Whether the model's threads run nothing and nothing is queued."""
        return self._worker.is_idle

    @property
    def running(self) -> Tuple[int, ...]:
        """Serial numbers of the runs in progress in the model's threads."""
        return self._worker.running

    def loaded(self, seconds: float) -> None:
        """Wait until loading has succeeded or failed."""
        self._worker.loading.exception(seconds)

    @property
    def instances(self) -> int:
        """Number of requests that run in parallel."""
        return self._worker.threads

    def submit(
        self, prepare: Callable[[], NDArray[np.float32]], finish: Callable[[NDArray[np.float32]], Answer]
    ) -> Future[Answer]:
        """Run `prepare`, the model, and `finish` on its logits in one of the model's threads."""
        return self._worker.submit(Job(prepare, finish))

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits [N, C] of preprocessed images [N, 3, H, W]; raise `NotReady`."""
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
        """Report not ready from now on; requests are still answered."""
        self._is_stopping = True

    def close(self, seconds: float = STOP_SECONDS) -> bool:
        """Free the model after earlier requests are answered; return False if they were not within `seconds`."""
        self.stop()
        if not self._worker.close(seconds):
            return False
        session, self._session = self._session, None
        if session is not None:
            session.close()
        return True

    def _load_and_log(self, chosen: Optional[Chosen], reason: str) -> Service:
        """Load the model, log the outcome, and return this service."""
        try:
            self._load(chosen, reason)
        except Stopped:
            raise
        except NotReady as error:
            LOG.error("the model cannot be served", extra={"fields": {"reason": str(error)}})
            raise
        except BaseException as error:
            fields = {"reason": str(error)}
            LOG.error("the model cannot be served", exc_info=error, extra={"fields": fields})
            raise
        finally:
            self.progress.end()
        LOG.info("ready", extra={"fields": {"cpu_seconds_since_start": round(time.process_time(), 3)}})
        return self

    def _load(self, chosen: Optional[Chosen], reason: str) -> None:
        """Open and prove the model; raise `NotReady` or `Stopped`."""
        if chosen is None:
            raise NotReady(reason)
        if chosen.manifest.runtime == TENSORRT and self._settings.instances > 1:
            raise NotReady(f"INSTANCES is {self._settings.instances}, but a GPU runs one request at a time; unset it")
        try:
            self.proof = read_proof(chosen.folder, chosen.manifest)
            started = self._start(chosen)
        except Stopped:
            raise
        except REFUSALS as error:
            raise NotReady(str(error)) from None
        self._set_chosen(started.chosen)
        self.golden = started.golden
        self.proof = None if started.report is None else proof_from(started.report)
        self.started = started
        if started.refusal:
            started.session.close()
            raise NotReady(started.refusal)
        LOG.info("golden images match", extra={"fields": {"reason": started.golden.reason}})
        self._session = started.session

    def _start(self, chosen: Chosen) -> Started:
        if chosen.manifest.runtime != TENSORRT:
            return ort_start.start(chosen)
        # Imported only here, because an image with ONNX Runtime does not need it.
        from targets.device.tensorrt.engines import Engines
        from targets.device.tensorrt.start import TensorRtStart
        from targets.device.tensorrt.terms import read_terms

        terms = read_terms(chosen.folder)
        engines = Engines(self._settings.engine_cache, self.progress)
        seconds = self._settings.measure_seconds
        return TensorRtStart(engines, chosen.folder / SHARD, terms, measure_seconds=seconds).start(chosen)

    def _set_chosen(self, chosen: Chosen) -> None:
        self.folder, self.manifest = chosen.folder, chosen.manifest
        self.variant, self.variant_reason = chosen.variant, chosen.reason


def _instances(manifest: Manifest, settings: Settings) -> int:
    """Return the number of instances: INSTANCES, or as many as this process's cores can run in parallel."""
    if manifest.runtime == TENSORRT:
        return 1
    threads = int(manifest.session_options.get("intra_op_num_threads", 1)) or cores_allowed()
    return settings.instances or max(1, cores_allowed() // threads)
