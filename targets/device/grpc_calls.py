"""The Open Inference Protocol v2 over gRPC, for the one model of this device: calls, statuses, messages.

Every call reads its only message itself, so that those on their way are bounded: how much of one has come cannot be
told, so it counts as the largest that may come, and where there is no room for more, the oldest is sent away.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Awaitable, Callable, Dict, Optional, Tuple, TypeVar, Union

import grpc
import numpy as np
from numpy.typing import NDArray

from targets.device import open_inference_pb2 as messages
from targets.device.access import Access
from targets.device.budget import Budget, Share
from targets.device.cut import cut
from targets.device.endpoint import OUTPUT, Endpoint
from targets.device.grpc_messages import decoded, infer_request, infer_response, model_metadata
from targets.device.inputs import described
from targets.device.log import Throttle
from targets.device.protocol import InferRequest
from targets.device.reader import body_too_large
from targets.device.service import NotReady
from targets.device.status import platform_of
from targets.device.tensors import BUG, RequestError

LOG = logging.getLogger(__name__)
SERVICE = "inference.GRPCInferenceService"
INFER = "ModelInfer"
# gRPC's status for what HTTP says.
CODES: Dict[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
CANCEL_SECONDS = 0.1
# Messages on their way that ask for no answer of the model; more of them, and the oldest is sent away.
LOOKS = 4
# Answers that are not taken, besides one for each place.
UNSENT = 8
# An answer that is taken is gone after some turns of the loop.
TURN_SECONDS = 0.05
Result = TypeVar("Result")
Context = Any
"""`grpc.aio.ServicerContext`, which has no types."""
Call = Callable[[Context], Awaitable[bytes]]
Answer = Tuple[bytes, int]
"""A ModelInferResponse, and its number of images."""


class Calls:
    """The protocol's answers; one of it serves one `Endpoint`."""

    def __init__(self, endpoint: Endpoint, access: Access) -> None:
        self._endpoint = endpoint
        self._service = endpoint.service
        self._metrics = endpoint.service.metrics
        self._settings = endpoint.settings
        self._access = access
        self._throttle = Throttle()
        self._looks = Budget(LOOKS * endpoint.settings.max_body_bytes)
        self._unsent = Budget(self._settings.max_waiting + UNSENT, patience=TURN_SECONDS)
        """Counts calls; their bytes are counted together with those of HTTP."""

    def handler(self) -> Any:
        """What a gRPC server asks for the calls of the protocol."""
        calls: Dict[str, Call] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            INFER: self._model_infer,
        }
        # On the wire a stream of one message is that message.
        methods = {
            name: grpc.stream_stream_rpc_method_handler(self._answered(name, call)) for name, call in calls.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _answered(self, name: str, call: Call) -> Callable[[Any, Context], Awaitable[None]]:
        """The call, with whatever it raises as its status."""

        async def answer(_messages: Any, context: Context) -> None:
            loop = asyncio.get_running_loop()
            since = loop.time()
            try:
                written = await call(context)
                await self._write(context, written)
                return
            except Exception as error:  # noqa: BLE001 - a bug of ours is logged, and costs one answer
                refusal = self._refusal(name, error)
            if name == INFER:
                self._metrics.answered_request("grpc", refusal.status, loop.time() - since, 0)
            await context.abort(CODES[refusal.status], str(refusal))
            raise AssertionError("abort() raises")

        return answer

    def _refusal(self, name: str, error: Exception) -> RequestError:
        """What its client hears, once it is counted and logged."""
        path = f"/{SERVICE}/{name}"
        if isinstance(error, NotReady):
            error = RequestError(str(error), status=503)
        if isinstance(error, RequestError):
            if self._throttle.lets_through():
                fields = {"path": path, "status": error.status, "error": str(error), **self._throttle.fields()}
                LOG.warning("request refused", extra={"fields": fields})
        else:
            LOG.error("a request could not be answered", exc_info=error, extra={"fields": {"path": path}})
            error = RequestError(BUG, status=500)
        self._metrics.refused_request(error.status)
        return error

    async def _read(self, kind: Any, context: Context) -> Any:
        share = self._looks.open()
        try:
            return decoded(kind, await self._message(context, share))
        finally:
            share.close()

    async def _message(self, context: Context, share: Share) -> bytes:
        """The bytes of the call's message, which `share` is of."""
        seconds, reading = self._settings.body_seconds, asyncio.ensure_future(context.read())
        share.send_away = lambda: _give_up(share, reading)
        share.hold(self._settings.max_body_bytes)
        try:
            await asyncio.wait({reading}, timeout=seconds)
            if not reading.done():
                raise RequestError(f"the body did not arrive within {seconds} s (BODY_SECONDS)", status=408)
            if reading.cancelled():
                raise RequestError("too many messages are on their way (MAX_WAITING); try again", status=429)
            read = reading.result()
        finally:
            share.send_away = None
            reading.cancel()
        if read is grpc.aio.EOF:
            # So ends a call, too, whose message is too large for gRPC or whose client is gone: it is about to be
            # cancelled here.
            await asyncio.sleep(CANCEL_SECONDS)
            raise RequestError("the call has no message")
        data: bytes = read
        if len(data) > self._settings.max_body_bytes:
            raise body_too_large(self._settings.max_body_bytes)
        share.hold(len(data))
        return data

    async def _write(self, context: Context, written: bytes) -> None:
        """Hand the answer over; who does not take it is cut off, as no status would reach it either."""
        writing = asyncio.ensure_future(context.write(written))
        # Else one that ends after its call would be a line in the log.
        writing.add_done_callback(lambda done: done.cancelled() or done.exception())
        shares = [self._unsent.open(), self._endpoint.held.open()]
        peer, port, gone = context.peer(), self._settings.grpc_port, asyncio.Event()

        def send_away() -> None:
            for share in shares:
                share.close()
            cut(peer, port)
            gone.set()

        # Held before it can be sent away: who comes with many others is not the one who does not read.
        shares[0].hold(1)
        shares[1].hold(len(written))
        for share in shares:
            share.send_away = send_away
        try:
            await asyncio.wait({writing}, timeout=self._settings.idle_seconds)
            if not writing.done():
                send_away()
                # gRPC's own task: cancelled, it would leave the answer where it is.
                await asyncio.wait({writing}, timeout=CANCEL_SECONDS)
            # gRPC fails to write where the connection has ended, and for nothing else.
            if gone.is_set() or writing.exception() is not None:
                raise asyncio.CancelledError
        finally:
            for share in shares:
                share.close()

    # Calls

    async def _server_live(self, context: Context) -> bytes:
        await self._read(messages.ServerLiveRequest, context)
        return _written(messages.ServerLiveResponse(live=True))

    async def _server_ready(self, context: Context) -> bytes:
        await self._read(messages.ServerReadyRequest, context)
        return _written(messages.ServerReadyResponse(ready=self._service.readiness.ready))

    async def _model_ready(self, context: Context) -> bytes:
        asked = await self._read(messages.ModelReadyRequest, context)
        self._endpoint.model(asked.name, asked.version)
        return _written(messages.ModelReadyResponse(ready=self._service.readiness.ready))

    async def _server_metadata(self, context: Context) -> bytes:
        await self._read(messages.ServerMetadataRequest, context)
        manifest = self._service.manifest
        version = manifest.version if manifest is not None else ""
        # The one that HTTP has, binary tensors, is no extension here.
        return _written(messages.ServerMetadataResponse(name="edge-deploy", version=version))

    async def _model_metadata(self, context: Context) -> bytes:
        asked = await self._read(messages.ModelMetadataRequest, context)
        manifest = self._endpoint.model(asked.name, asked.version)
        output = {"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(manifest.classes)]}
        return model_metadata(manifest, platform_of(manifest), described(manifest), [output])

    async def _model_infer(self, context: Context) -> bytes:
        self._access.check(_authorization(context), has_certificate="x509_pem_cert" in context.auth_context())
        share = self._endpoint.open()
        try:
            data = await self._message(context, share)
            loop = asyncio.get_running_loop()
            since = loop.time()
            self._endpoint.enter()
            try:
                answer = self._inferred(data)
                written, images = answer if isinstance(answer, tuple) else await self._in_time(answer)
            finally:
                self._endpoint.leave()
        finally:
            share.close()
        self._metrics.answered_request("grpc", 200, loop.time() - since, images)
        return written

    async def _in_time(self, answer: "asyncio.Future[Answer]") -> Answer:
        """What is not there in time, or whose client is gone, need not be done."""
        seconds = self._settings.request_seconds
        try:
            return await _within(seconds, answer)
        except asyncio.TimeoutError:
            message = f"there was no answer within {seconds} s (REQUEST_SECONDS); try again later"
            raise RequestError(message, status=503) from None

    def _inferred(self, data: bytes) -> Union[Answer, "asyncio.Future[Answer]"]:
        manifest = self._service.manifest
        assert manifest is not None, "enter() has found a model"

        def parse() -> InferRequest:
            message = decoded(messages.ModelInferRequest, data)
            self._endpoint.model(message.model_name, message.model_version)
            return infer_request(message)

        def render(asked: InferRequest, logits: NDArray[np.float32]) -> Answer:
            binary = asked.outputs[0].binary if asked.outputs else asked.binary
            return infer_response(manifest, asked, OUTPUT, logits, binary=binary), len(logits)

        return self._endpoint.answer(parse, render, size=len(data))


async def _within(seconds: float, awaited: Awaitable[Result]) -> Result:
    """Its result; raises `asyncio.TimeoutError`, and cancels it where it is too late or this is cancelled.

    `asyncio.wait_for` of Python 3.11 forgets that it was cancelled where the result came at the same time.
    """
    task = asyncio.ensure_future(awaited)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        task.cancel()


def _give_up(share: Share, waiting: "asyncio.Future[Any]") -> None:
    share.close()
    waiting.cancel()


def _written(message: Any) -> bytes:
    written: bytes = message.SerializeToString()
    return written


def _authorization(context: Context) -> Optional[str]:
    # What is no text is no token.
    found = [value for name, value in context.invocation_metadata() if name == "authorization"]
    if len(found) > 1:
        raise RequestError("the request has several authorization headers; send one")
    return found[-1] if found and isinstance(found[-1], str) else None
