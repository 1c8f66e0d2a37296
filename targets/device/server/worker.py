"""The model's threads: the first loads the model; each runs requests one by one, or several in a batch."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Callable, Generic, Iterator, List, Optional, Protocol, Tuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Answer = TypeVar("Answer")
Logits = NDArray[np.float32]


class Runs(Protocol):
    """The interface of a session that a worker needs."""

    def infer(self, images: NDArray[np.float32]) -> Logits:
        """Return the logits [N, C] of images [N, 3, H, W]."""


class Job(Generic[Answer]):
    """A request: `prepare` returns its images [N, 3, H, W], `finish` makes the response from their logits [N, C]."""

    def __init__(self, prepare: Callable[[], NDArray[np.float32]], finish: Callable[[Logits], Answer]) -> None:
        self.prepare = prepare
        self.finish = finish
        self.future: Future[Answer] = Future()


Prepared = Tuple[Job[Any], NDArray[np.float32]]


class Worker:
    """Threads that run jobs; the first creates the session with `load`, while jobs wait.

    All `threads` use one session, so it must be thread-safe if there are several.
    """

    def __init__(
        self,
        load: Callable[[], Runs],
        *,
        threads: int = 1,
        batch_images: int = 1,
        batch_delay_seconds: float = 0.0,
    ) -> None:
        self._jobs: queue.Queue[Optional[Job[Any]]] = queue.Queue()
        serials = itertools.count(1)
        self._runners = [_Runner(self._jobs, serials, batch_images, batch_delay_seconds) for _ in range(threads)]
        self.loading: Future[Runs] = Future()
        """The session, or the error of loading it."""
        self._threads = [threading.Thread(target=self._run, args=(load,), name="model", daemon=True)]
        self._threads[0].start()

    @property
    def threads(self) -> int:
        return len(self._runners)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is running or queued, so that short work can be done in the caller's thread."""
        return not self.running and self._jobs.empty()

    @property
    def running(self) -> Tuple[int, ...]:
        """Serial numbers of the runs in progress."""
        return tuple(serial for each in self._runners if (serial := each.serial))

    def submit(self, job: Job[Answer]) -> Future[Answer]:
        """Queue a job and return the future of its response."""
        self._jobs.put(job)
        return job.future

    def close(self, seconds: float) -> bool:
        """Stop after the current jobs; return False if threads are still running after `seconds`."""
        self.loading.cancel()
        self._jobs.put(None)
        deadline = time.monotonic() + seconds
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, load: Callable[[], Runs]) -> None:
        if not self.loading.set_running_or_notify_cancel():
            return
        try:
            session = load()
            first, *others = self._runners
            for each in others:
                self._threads.append(threading.Thread(target=each.run, args=(session,), name="model", daemon=True))
                self._threads[-1].start()
        except BaseException as error:  # noqa: BLE001 - reported through the future
            self.loading.set_exception(error)
            self._refuse_all(error)
            return
        self.loading.set_result(session)
        first.run(session)

    def _refuse_all(self, error: BaseException) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                self._jobs.put(None)
                return
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)


class _Runner:
    """The loop of one thread, which takes jobs from the shared queue."""

    def __init__(
        self, jobs: "queue.Queue[Optional[Job[Any]]]", serials: Iterator[int], batch_images: int, delay: float
    ) -> None:
        self._jobs = jobs
        self._serials = serials
        self._batch_images = batch_images
        self._delay = delay
        self._carried: Optional[Prepared] = None
        self.serial = 0
        """Serial number of the run in progress; 0: idle."""

    def run(self, session: Runs) -> None:
        """Run jobs until the queue's end marker."""
        while True:
            batch = self._batch()
            if not batch:
                return
            with self._track_run():
                _run_batch(batch, session)

    def _batch(self) -> List[Prepared]:
        """Return the next job with its images, and the jobs batched with it; empty at the end."""
        batch: List[Prepared] = []
        count, deadline = 0, 0.0
        while count < self._batch_images:
            taken = self._take(deadline if batch else None)
            if taken is None:
                break
            if batch and count + len(taken[1]) > self._batch_images:
                self._carried = taken
                break
            if not batch:
                deadline = time.monotonic() + self._delay
            batch.append(taken)
            count += len(taken[1])
        return batch

    def _take(self, deadline: Optional[float]) -> Optional[Prepared]:
        """Return the next prepared job; None if there is none before `deadline`, or at the end."""
        taken, self._carried = self._carried, None
        while taken is None:
            try:
                job = self._jobs.get() if deadline is None else self._get_until(deadline)
            except queue.Empty:
                return None
            if job is None:
                # Put back for the other threads, and for this one after the current batch.
                self._jobs.put(None)
                return None
            with self._track_run():
                taken = _prepare(job)
        return taken

    @contextmanager
    def _track_run(self) -> Iterator[None]:
        self.serial = next(self._serials)
        try:
            yield
        finally:
            self.serial = 0

    def _get_until(self, deadline: float) -> Optional[Job[Any]]:
        left = deadline - time.monotonic()
        return self._jobs.get(timeout=left) if left > 0 else self._jobs.get_nowait()


def _prepare(job: Job[Any]) -> Optional[Prepared]:
    """Return the job with its images; None if its client is gone, or preparing it failed."""
    if not job.future.set_running_or_notify_cancel():
        return None
    try:
        return job, job.prepare()
    except BaseException as error:  # noqa: BLE001 - reported through the future
        job.future.set_exception(error)
        # The error references this frame; breaking the cycle frees the request's body as soon as it is answered.
        del job
        return None


def _run_batch(batch: List[Prepared], session: Runs) -> None:
    try:
        images = batch[0][1] if len(batch) == 1 else np.concatenate([each for _, each in batch])
        logits = session.infer(images)
    except BaseException as error:  # noqa: BLE001 - as above
        while batch:
            # As above.
            batch.pop(0)[0].future.set_exception(error)
        return
    start = 0
    for job, own in batch:
        try:
            job.future.set_result(job.finish(logits[start : start + len(own)]))
        except BaseException as error:  # noqa: BLE001 - as above
            job.future.set_exception(error)
        start += len(own)
