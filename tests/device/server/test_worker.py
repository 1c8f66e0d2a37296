"""The model's thread: one job after the other, or several in one batch."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from targets.device.server.worker import Job, Worker

Array = NDArray[np.float32]
SECONDS = 20.0


class Model:
    """Answers each image with its mean; waits for `go` in its first run."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = threading.Event()
        self.is_in = threading.Event()

    def infer(self, images: Array) -> Array:
        self.batches.append(len(images))
        self.is_in.set()
        assert self.go.wait(SECONDS)
        if (images == 13).any():
            raise RuntimeError("thirteen")
        means: Array = images.mean(axis=(1, 2, 3))[:, None]
        return means


def some(count: int, value: float) -> Callable[[], Array]:
    return lambda: np.full((count, 3, 2, 2), value, np.float32)


def values(logits: Array) -> list[float]:
    return [float(each) for each in logits[:, 0]]


@contextmanager
def working(model: Model, *, batch_images: int = 1, delay: float = 0.0) -> Iterator[Worker]:
    worker = Worker(lambda: model, batch_images=batch_images, batch_delay_seconds=delay)
    worker.loading.result(SECONDS)
    try:
        yield worker
    finally:
        model.go.set()
        assert worker.close(SECONDS)


def behind_a_first(worker: Worker, model: Model, *counts: int) -> list[Future[list[float]]]:
    """Jobs of so many images, all of which wait until a first one has run; job i's images are all i."""
    first = worker.submit(Job(some(1, 99), values))
    assert model.is_in.wait(SECONDS)
    futures = [worker.submit(Job(some(count, number), values)) for number, count in enumerate(counts)]
    model.go.set()
    assert first.result(SECONDS) == [99]
    return futures


@pytest.mark.parametrize(
    ("batch_images", "counts", "batches"),
    [
        pytest.param(1, [1, 1, 2], [1, 1, 2], id="each by itself"),
        pytest.param(8, [1, 2, 3], [6], id="all that wait"),
        pytest.param(4, [1, 2, 3, 1], [3, 4], id="one is carried over"),
        pytest.param(4, [3, 9, 1], [3, 9, 1], id="one is larger than a batch"),
        pytest.param(4, [4, 4], [4, 4], id="full batches"),
    ],
)
def test_what_waits_is_run_together_up_to_the_limit(batch_images: int, counts: list[int], batches: list[int]) -> None:
    model = Model()
    with working(model, batch_images=batch_images) as worker:
        futures = behind_a_first(worker, model, *counts)
        for number, (future, count) in enumerate(zip(futures, counts, strict=True)):
            assert future.result(SECONDS) == [number] * count
    assert model.batches == [1, *batches]


def test_a_job_that_cannot_be_prepared_does_not_spoil_the_batch() -> None:
    def broken() -> Array:
        raise ValueError("no image")

    def unfinished(_logits: Array) -> list[float]:
        raise KeyError("no answer")

    model = Model()
    with working(model, batch_images=8) as worker:
        behind = behind_a_first(worker, model)
        model.go.clear()
        model.is_in.clear()
        first = worker.submit(Job(some(1, 5), values))
        assert model.is_in.wait(SECONDS)
        jobs = [Job(some(1, 1), values), Job(broken, values), Job(some(2, 2), unfinished), Job(some(1, 3), values)]
        futures = [worker.submit(job) for job in jobs]
        model.go.set()
        assert behind == []
        assert first.result(SECONDS) == [5]
        assert futures[0].result(SECONDS) == [1]
        assert isinstance(futures[1].exception(SECONDS), ValueError)
        assert isinstance(futures[2].exception(SECONDS), KeyError)
        assert futures[3].result(SECONDS) == [3]
    assert model.batches == [1, 1, 4]


def test_a_run_that_fails_is_told_to_all_of_it_and_the_next_one_is_made() -> None:
    model = Model()
    with working(model, batch_images=2) as worker:
        first = worker.submit(Job(some(1, 99), values))
        assert model.is_in.wait(SECONDS)
        doomed = [worker.submit(Job(some(1, value), values)) for value in (13, 1)]
        after = worker.submit(Job(some(2, 7), values))
        model.go.set()
        assert first.result(SECONDS) == [99]
        assert [str(each.exception(SECONDS)) for each in doomed] == ["thirteen", "thirteen"]
        assert after.result(SECONDS) == [7, 7]


def test_images_that_cannot_be_joined_end_no_thread() -> None:
    model = Model()
    with working(model, batch_images=8) as worker:
        first = worker.submit(Job(some(1, 99), values))
        assert model.is_in.wait(SECONDS)
        odd = [worker.submit(Job(some(1, 1), values)), worker.submit(Job(lambda: np.ones((1, 9), np.float32), values))]
        model.go.set()
        assert first.result(SECONDS) == [99]
        assert all(isinstance(each.exception(SECONDS), ValueError) for each in odd)
        assert worker.submit(Job(some(1, 4), values)).result(SECONDS) == [4]


def test_a_job_whose_client_is_gone_is_not_run() -> None:
    model = Model()
    with working(model, batch_images=8) as worker:
        first = worker.submit(Job(some(1, 99), values))
        assert model.is_in.wait(SECONDS)
        gone, kept = [worker.submit(Job(some(1, value), values)) for value in (1, 2)]
        assert gone.cancel()
        assert not first.cancel()
        model.go.set()
        assert kept.result(SECONDS) == [2]
    assert model.batches == [1, 1]


def test_a_job_waits_for_others_where_there_is_a_delay() -> None:
    model = Model()
    model.go.set()
    with working(model, batch_images=2, delay=SECONDS) as worker:
        first = worker.submit(Job(some(1, 1), values))
        time.sleep(0.05)
        assert not first.done()
        second = worker.submit(Job(some(1, 2), values))
        # Long before the delay is over, as the batch is full.
        assert first.result(SECONDS / 2) == [1]
        assert second.result(SECONDS / 2) == [2]
    assert model.batches == [2]


def test_a_job_alone_is_run_once_the_delay_is_over() -> None:
    model = Model()
    model.go.set()
    with working(model, batch_images=4, delay=0.05) as worker:
        assert worker.submit(Job(some(1, 1), values)).result(SECONDS) == [1]
    assert model.batches == [1]


def test_every_run_has_a_number_of_its_own() -> None:
    model = Model()
    with working(model) as worker:
        assert worker.is_idle
        assert not worker.running
        seen: list[int] = []
        for _ in range(2):
            model.is_in.clear()
            future = worker.submit(Job(some(1, 1), values))
            assert model.is_in.wait(SECONDS)
            seen.extend(worker.running)
            assert not worker.is_idle
            model.go.set()
            future.result(SECONDS)
            model.go.clear()
        assert len(seen) == 2
        assert 0 < seen[0] < seen[1]


def test_several_threads_run_several_jobs_of_one_session() -> None:
    model = Model()
    together = threading.Barrier(3)

    def meet() -> Array:
        together.wait(SECONDS)
        return some(1, 3)()

    model.go.set()
    worker = Worker(lambda: model, threads=3)
    try:
        futures = [worker.submit(Job(meet, values)) for _ in range(6)]
        assert [each.result(SECONDS) for each in futures] == [[3]] * 6
    finally:
        assert worker.close(SECONDS)
    assert not [each for each in threading.enumerate() if each.name == "model"]


def test_while_one_thread_is_held_up_the_others_go_on() -> None:
    model, go, seen = Model(), threading.Event(), threading.Event()
    model.go.set()

    def slow() -> Array:
        seen.set()
        assert go.wait(SECONDS)
        return some(1, 1)()

    worker = Worker(lambda: model, threads=2)
    try:
        held = worker.submit(Job(slow, values))
        assert seen.wait(SECONDS)
        assert [worker.submit(Job(some(1, each), values)).result(SECONDS) for each in range(5)] == [
            [each] for each in range(5)
        ]
        assert len(worker.running) == 1
        assert not worker.is_idle
        go.set()
        assert held.result(SECONDS) == [1]
    finally:
        assert worker.close(SECONDS)


def test_preparing_counts_as_running() -> None:
    """Decoding an image may hang as well as the model."""
    model, go, seen = Model(), threading.Event(), threading.Event()
    model.go.set()

    def slow() -> Array:
        seen.set()
        assert go.wait(SECONDS)
        return some(1, 1)()

    with working(model) as worker:
        future = worker.submit(Job(slow, values))
        assert seen.wait(SECONDS)
        assert worker.running
        go.set()
        assert future.result(SECONDS) == [1]


def test_jobs_at_hand_are_done_before_the_end() -> None:
    model = Model()
    model.go.set()
    worker = Worker(lambda: model, batch_images=2)
    futures = [worker.submit(Job(some(1, value), values)) for value in range(5)]
    assert worker.close(SECONDS)
    assert [each.result(0) for each in futures] == [[0], [1], [2], [3], [4]]


def test_an_end_that_takes_too_long_is_told() -> None:
    model = Model()
    worker = Worker(lambda: model)
    worker.submit(Job(some(1, 1), values))
    assert model.is_in.wait(SECONDS)
    assert not worker.close(0.05)
    model.go.set()
    assert worker.close(SECONDS)


def test_where_there_is_no_session_every_job_hears_why() -> None:
    def load() -> Model:
        raise OSError("no model")

    worker = Worker(load)
    with pytest.raises(OSError, match="no model"):
        worker.submit(Job(some(1, 1), values)).result(SECONDS)
    assert isinstance(worker.loading.exception(0), OSError)
    assert worker.close(SECONDS)


def test_what_a_refused_job_held_is_free_at_once() -> None:
    """Its body may have many megabytes, and the collector of circles comes late."""

    class Body:
        pass

    def refused() -> tuple[Job[list[float]], weakref.ref[Body]]:
        body = Body()

        def prepare(kept: Body = body) -> Array:
            raise ValueError(f"{type(kept)} is no image")

        return Job(prepare, values), weakref.ref(body)

    model = Model()
    model.go.set()
    gc.disable()
    try:
        with working(model) as worker:
            job, body = refused()
            future = worker.submit(job)
            del job
            assert isinstance(future.exception(SECONDS), ValueError)
            del future
            # The thread lets go of a job with the next one.
            assert worker.submit(Job(some(1, 1), values)).result(SECONDS) == [1]
            assert body() is None
    finally:
        gc.enable()
