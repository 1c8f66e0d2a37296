"""The one model of a device: loaded and proven in the background, then answering one request after the other."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from targets.device.cpu import instruction_set
from targets.device.golden import check
from targets.device.manifest import Manifest, ManifestError
from targets.device.sessions import OnnxRuntimeSession, SessionError, open_session
from targets.device.variant import MAIN, choose

LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")


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

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # One thread: a second inference at a time would only slow down the first.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.manifest: Optional[Manifest] = None
        self.variant = MAIN
        try:
            chosen = choose(folder)
        except ManifestError as error:
            # No reason to stop: an unready server that names the reason is found more easily than a dead one.
            LOG.error("the model cannot be served", extra={"fields": {"reason": str(error)}})
            self._loading: Future[OnnxRuntimeSession] = Future()
            self._loading.set_exception(NotReady(str(error)))
        else:
            self.manifest, self.variant = chosen.manifest, chosen.variant
            self._loading = self._worker.submit(_load, chosen.folder, chosen.manifest)
            self._loading.add_done_callback(_log_outcome)

    @property
    def readiness(self) -> Readiness:
        if not self._loading.done():
            return Readiness(False, True, "the model is being loaded and checked against its golden images")
        error = self._loading.exception()
        if error is not None:
            return Readiness(False, False, str(error) or type(error).__name__)
        return Readiness(True, False, "")

    @property
    def place(self) -> str:
        """What runs the model here, as `onnxruntime 1.22.0 on avx2`."""
        return f"onnxruntime {onnxruntime.__version__} on {instruction_set()}"

    def submit(self, work: Callable[[], Answer]) -> Future[Answer]:
        """Do `work`, which may call `infer`, when the requests before it are done."""
        return self._worker.submit(work)

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [N, C] of preprocessed images [N, 3, H, W]; raises `NotReady`."""
        readiness = self.readiness
        if not readiness.ready:
            raise NotReady(readiness.reason)
        return self._loading.result().infer(images)

    def close(self) -> None:
        """Free the model once the requests that came before are answered."""
        self._loading.cancel()
        self._worker.shutdown(wait=True)
        if self._loading.done() and not self._loading.cancelled() and self._loading.exception() is None:
            self._loading.result().close()


def _load(folder: Path, manifest: Manifest) -> OnnxRuntimeSession:
    """The session, once it has repeated the golden answers; raises `NotReady`."""
    try:
        session = open_session(folder, manifest)
    except (ManifestError, SessionError) as error:
        raise NotReady(str(error)) from None
    try:
        result = check(session, folder, manifest)
    except SessionError as error:
        raise NotReady(str(error)) from None
    if not result.matched:
        session.close()
        raise NotReady(result.reason)
    LOG.info("golden images match", extra={"fields": {"reason": result.reason}})
    return session


def _log_outcome(loading: Future[OnnxRuntimeSession]) -> None:
    if loading.cancelled():
        return
    error = loading.exception()
    if error is None:
        seconds = round(time.process_time(), 3)
        LOG.info("ready", extra={"fields": {"cpu_seconds_since_start": seconds}})
    else:
        known = isinstance(error, NotReady)
        LOG.error(
            "the model cannot be served", exc_info=None if known else error, extra={"fields": {"reason": str(error)}}
        )
