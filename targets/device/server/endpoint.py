"""Inference requests of any protocol: where they are computed, and how many may wait."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from typing import Any, Callable, Optional, Tuple, TypeVar, Union

import numpy as np
from numpy.typing import NDArray

from targets.device.model.manifest import Manifest
from targets.device.server.client_memory import Budget, Share
from targets.device.server.inputs import ENCODED, ImageLimits, checked_input, network_input
from targets.device.server.protocol import InferRequest
from targets.device.server.service import NotReady, Service
from targets.device.server.tensors import RequestError, shown
from targets.device.settings import Settings

OUTPUT = "logits"
Answer = TypeVar("Answer")
# Longest work in the loop's own thread, which blocks other requests; handing over to a thread costs 0.1 ms.
INLINE_SECONDS = 0.002
INLINE_BYTES = 256 << 10


class Endpoint:
    """The part that HTTP and gRPC share, for one `Service`."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self.service = service
        self.settings = settings
        self.waiting = 0
        self._limits = ImageLimits(settings.max_image_pixels)
        # Parsing JSON takes many times its size, and the GIL allows only one thread at a time anyway.
        self._reading = threading.Lock()
        self._answers_to_the_end = False
        self.bodies = Budget(settings.max_waiting * settings.max_body_bytes)
        """Memory of inference requests, from their first byte to their response."""
        self.held = Budget(settings.max_held_bytes, patience=0.0)
        """Other memory held for clients: heads, and responses that are not read.

        A good client's are gone quickly, so the newest is not protected from eviction."""

    def open(self) -> Share:
        """Return a share for the body of an incoming request; raise as `enter` does.

        It takes no place yet, so that slow clients do not occupy places.
        """
        self._check()
        return self.bodies.open()

    def enter(self) -> None:
        """Take a place for a complete request.

        Raises `NotReady`, or `RequestError` (429) if all are taken.
        """
        self._check()
        self.waiting += 1

    def leave(self) -> None:
        """Release the place."""
        self.waiting -= 1

    def end(self) -> None:
        """Begin the shutdown: readiness is off, but requests are still answered if they were before."""
        self._answers_to_the_end = self.service.readiness.ready

    def _check(self) -> None:
        readiness = self.service.readiness
        if not readiness.ready and not self._answers_to_the_end:
            raise NotReady(readiness.reason)
        if self.waiting >= self.settings.max_waiting:
            message = f"{self.waiting} requests are already being answered (MAX_WAITING); try again"
            raise RequestError(message, status=429)

    def model(self, name: str, version: Optional[str]) -> Manifest:
        """Return the model by name and optional version; raise `RequestError` (404) or `NotReady`."""
        manifest = self.service.manifest
        if manifest is None:
            raise NotReady(self.service.readiness.reason)
        if name != manifest.name:
            raise RequestError(f"there is no model {shown(name)}; this server has {manifest.name!r}", status=404)
        if version and version != manifest.version:
            raise RequestError(
                f"there is no version {shown(version)} of {name!r}; this server has {manifest.version!r}",
                status=404,
            )
        return manifest

    def answer(
        self,
        parse: Callable[[], InferRequest],
        render: Callable[[InferRequest, NDArray[np.float32]], Answer],
        *,
        size: int,
    ) -> Union[Answer, "asyncio.Future[Answer]"]:
        """Answer a request of `size` bytes: at once if that is fast, otherwise in a future.

        Raises, now or in the future, `RequestError`, `NotReady` or `SessionError`.
        """
        manifest, settings = self.service.manifest, self.settings
        assert manifest is not None, "enter() has found a model"
        request: Optional[InferRequest] = None

        def checked() -> Tuple[str, NDArray[Any]]:
            nonlocal request
            with nullcontext() if size <= INLINE_BYTES else self._reading:
                request = parse()
            check_outputs(request)
            return checked_input(request, manifest, settings.max_batch)

        def finish(logits: NDArray[np.float32]) -> Answer:
            assert request is not None
            return render(request, logits)

        def as_input(name: str, values: NDArray[Any]) -> NDArray[np.float32]:
            return network_input(name, values, manifest, self._limits)

        if size > INLINE_BYTES or settings.batch_images > 1 or not self.service.is_idle:
            return _awaitable(self.service.submit(lambda: as_input(*checked()), finish))
        name, values = checked()
        # The decoding time of an encoded image is not known from its size.
        if name != ENCODED and len(values) * self.service.seconds_per_image <= INLINE_SECONDS:
            return finish(self.service.infer(as_input(name, values)))
        return _awaitable(self.service.submit(lambda: as_input(name, values), finish))


def _awaitable(computed: Future[Answer]) -> "asyncio.Future[Answer]":
    """Wrap `computed` for the running loop; cancelling it cancels `computed`.

    asyncio.wrap_future() makes a reference cycle, which keeps the body of a refused request until garbage collection.
    """
    loop = asyncio.get_running_loop()
    awaited: asyncio.Future[Answer] = loop.create_future()

    def hand_over(done: Future[Answer]) -> None:
        if awaited.cancelled() or done.cancelled():
            return
        error = done.exception()
        if error is None:
            awaited.set_result(done.result())
        else:
            awaited.set_exception(error)
            del error

    def wake(done: Future[Answer]) -> None:
        # The loop may have ended by now.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(hand_over, done)

    computed.add_done_callback(wake)
    awaited.add_done_callback(lambda ended: computed.cancel() if ended.cancelled() else None)
    return awaited


def check_outputs(request: InferRequest) -> None:
    """Raise `RequestError` for an output that the model does not have."""
    for output in request.outputs or ():
        if output.name != OUTPUT:
            raise RequestError(f"there is no output {shown(output.name)}; the model has {OUTPUT!r}")
