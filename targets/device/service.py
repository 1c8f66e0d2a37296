"""The one model of a device: loaded and proven in the background, then answering one request after the other."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional, Tuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from targets.device import ort_start
from targets.device.cores import cores_allowed
from targets.device.errors import ModelError
from targets.device.files import SHARD
from targets.device.golden import GoldenResult
from targets.device.image_files import ImageError
from targets.device.manifest import TENSORRT, Manifest, ManifestError
from targets.device.measure import MeasureError
from targets.device.metrics import Metrics
from targets.device.progress import Progress, Stopped
from targets.device.proof import Proof, ProofError, proof_from, read_proof
from targets.device.sessions import Session
from targets.device.settings import Settings
from targets.device.shard import ShardError
from targets.device.started import Started
from targets.device.variant import MAIN, Chosen, choose
from targets.device.worker import Job, Worker

LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")
STOP_SECONDS = 60.0
# Of a new measurement in the running mean: a device that gets hot and slow is noticed within some requests.
NEW_SHARE = 0.1
# What keeps a model from being served, with a message for whoever looks after the device.
REFUSALS = (ModelError, ManifestError, ProofError, ShardError, ImageError, MeasureError)


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
        self._settings = settings = Settings() if settings is None else settings
        self.folder = folder
        self.metrics = Metrics() if metrics is None else metrics
        self.manifest: Optional[Manifest] = None
        self.variant = MAIN
        """Which of the image's models runs here."""
        self.variant_reason = ""
        self.golden: Optional[GoldenResult] = None
        self.proof: Optional[Proof] = None
        """The gate's report that came with the model, where one did; of a GPU, once it is there, the one made here."""
        self.started: Optional[Started] = None
        """What was found out of the model here, also where it is not served for that."""
        self.seconds_per_image = float("inf")
        """Running mean of what was measured here; infinite before the first request."""
        self.progress = Progress(lambda: self._is_stopping)
        self._session: Optional[Session] = None
        self._is_stopping = False
        chosen, reason = None, ""
        try:
            chosen = choose(folder)
            self._take(chosen)
        except ManifestError as error:
            # No reason to stop: an unready server that names the reason is found more easily than a dead one.
            reason = str(error)
        self._worker = Worker(
            lambda: self._loaded(chosen, reason),
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
        """What runs the model here, as `onnxruntime 1.22.0 on avx2`; the runtime's name until that is known."""
        if self.started is not None:
            return self.started.place
        return "nothing" if self.manifest is None else self.manifest.runtime

    @property
    def comparison(self) -> str:
        """In one sentence, why this precision is the fastest here; empty where none were compared."""
        found = None if self.started is None else self.started.comparison
        return "" if found is None else str(found["text"])

    @property
    def is_idle(self) -> bool:
        """Nothing is run in the model's threads, and nothing waits for them."""
        return self._worker.is_idle

    @property
    def running(self) -> Tuple[int, ...]:
        """A number for everything that the model's threads run, another one for every run."""
        return self._worker.running

    def loaded(self, seconds: float) -> None:
        """Wait until it is known whether the model will answer."""
        self._worker.loading.exception(seconds)

    @property
    def instances(self) -> int:
        """Requests that are run at a time."""
        return self._worker.threads

    def submit(
        self, prepare: Callable[[], NDArray[np.float32]], finish: Callable[[NDArray[np.float32]], Answer]
    ) -> Future[Answer]:
        """In one of the model's threads: `prepare`, the model, `finish` on its logits."""
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

    def _loaded(self, chosen: Optional[Chosen], reason: str) -> Service:
        """Itself, ready; the outcome is in the log, whatever it is."""
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
        """Open the model and have it proven; raises `NotReady` or `Stopped`."""
        if chosen is None:
            raise NotReady(reason)
        if chosen.manifest.runtime == TENSORRT and self._settings.instances > 1:
            raise NotReady(f"INSTANCES is {self._settings.instances}, but a GPU runs one at a time; leave it unset")
        try:
            self.proof = read_proof(chosen.folder, chosen.manifest)
            started = self._start(chosen)
        except Stopped:
            raise
        except REFUSALS as error:
            raise NotReady(str(error)) from None
        self._take(started.chosen)
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
        # Here alone: an image of ONNX Runtime does not need all of this.
        from targets.device.trt_engines import Engines
        from targets.device.trt_start import TensorRtStart
        from targets.device.trt_terms import read_terms

        terms = read_terms(chosen.folder)
        engines = Engines(self._settings.engine_cache, self.progress)
        seconds = self._settings.measure_seconds
        return TensorRtStart(engines, chosen.folder / SHARD, terms, measure_seconds=seconds).start(chosen)

    def _take(self, chosen: Chosen) -> None:
        self.folder, self.manifest = chosen.folder, chosen.manifest
        self.variant, self.variant_reason = chosen.variant, chosen.reason


def _instances(manifest: Manifest, settings: Settings) -> int:
    """Of the model: what INSTANCES says, else as many as this process's cores run side by side."""
    if manifest.runtime == TENSORRT:
        return 1
    threads = int(manifest.session_options.get("intra_op_num_threads", 1)) or cores_allowed()
    return settings.instances or max(1, cores_allowed() // threads)
