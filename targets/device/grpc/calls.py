"""The Open Inference Protocol v2 over gRPC for this device's model: calls, statuses, messages.

Every call reads its only message itself, to limit the memory of incoming messages. gRPC does not report how much of a
message has arrived, so each counts with the maximum size; if there is no room for more, the oldest is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Awaitable, Callable, Dict, Optional, Tuple, TypeVar, Union

import grpc
import numpy as np
from numpy.typing import NDArray

from targets.device.grpc import open_inference_pb2 as messages
from targets.device.grpc.disconnect import cut
from targets.device.grpc.messages import decode_message, infer_request, infer_response, model_metadata
from targets.device.log import Throttle
from targets.device.server.access import Access
from targets.device.server.client_memory import Budget, Share
from targets.device.server.endpoint import OUTPUT, Endpoint
from targets.device.server.inputs import describe_inputs
from targets.device.server.protocol import InferRequest
from targets.device.server.reader import body_too_large
from targets.device.server.service import NotReady
from targets.device.server.status import platform_of
from targets.device.server.tensors import BUG, RequestError

LOG = logging.getLogger(__name__)
SERVICE = "inference.GRPCInferenceService"
INFER = "ModelInfer"
# gRPC's status for each HTTP status.
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
# Incoming messages of calls other than inference; above it, the oldest is cancelled.
LOOKS = 4
# Responses that clients have not read, in addition to one per place.
UNSENT = 8
# A response that is read is sent within a few iterations of the loop.
TURN_SECONDS = 0.05
Result = TypeVar("Result")
Context = Any
"""`grpc.aio.ServicerContext`, which has no type stubs."""
Call = Callable[[Context], Awaitable[bytes]]
Answer = Tuple[bytes, int]
"""A ModelInferResponse, and its number of images."""


class Calls:
    """Handler of the protocol's calls for one `Endpoint`."""

    def __init__(self, endpoint: Endpoint, access: Access) -> None:
        self._endpoint = endpoint
        self._service = endpoint.service
        self._metrics = endpoint.service.metrics
        self._settings = endpoint.settings
        self._access = access
        self._throttle = Throttle()
        self._looks = Budget(LOOKS * endpoint.settings.max_body_bytes)
        self._unsent = Budget(self._settings.max_waiting + UNSENT, patience=TURN_SECONDS)
        """Counts calls; their bytes count together with those of HTTP."""

    def handler(self) -> Any:
        """Return gRPC's handler for the protocol's calls."""
        calls: Dict[str, Call] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            INFER: self._model_infer,
        }
        # On the wire, a stream of one message is the same as the message.
        methods = {
            name: grpc.stream_stream_rpc_method_handler(self._answer(name, call)) for name, call in calls.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _answer(self, name: str, call: Call) -> Callable[[Any, Context], Awaitable[None]]:
        """Wrap a call: every exception becomes a status."""

        async def answer(_messages: Any, context: Context) -> None:
            loop = asyncio.get_running_loop()
            since = loop.time()
            try:
                written = await call(context)
                await self._write(context, written)
                return
            except Exception as error:  # noqa: BLE001 - a bug is logged, and fails only this call
                refusal = self._refusal(name, error)
            if name == INFER:
                self._metrics.answered_request("grpc", refusal.status, loop.time() - since, 0)
            await context.abort(CODES[refusal.status], str(refusal))
            raise AssertionError("abort() raises")

        return answer

    def _refusal(self, name: str, error: Exception) -> RequestError:
        """Return the error for the client after counting and logging it."""
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
            return decode_message(kind, await self._message(context, share))
        finally:
            share.close()

    async def _message(self, context: Context, share: Share) -> bytes:
        """Read the bytes of the call's message, which `share` accounts for."""
        seconds, reading = self._settings.body_seconds, asyncio.ensure_future(context.read())
        share.evict = lambda: _give_up(share, reading)
        share.hold(self._settings.max_body_bytes)
        try:
            await asyncio.wait({reading}, timeout=seconds)
            if not reading.done():
                raise RequestError(f"the body did not arrive within {seconds} s (BODY_SECONDS)", status=408)
            if reading.cancelled():
                raise RequestError("too many messages are being received (MAX_WAITING); try again", status=429)
            read = reading.result()
        finally:
            share.evict = None
            reading.cancel()
        if read is grpc.aio.EOF:
            # EOF also if the message is too large for gRPC or the client disconnected: then the call is about to be
            # cancelled here.
            await asyncio.sleep(CANCEL_SECONDS)
            raise RequestError("the call has no message")
        data: bytes = read
        if len(data) > self._settings.max_body_bytes:
            raise body_too_large(self._settings.max_body_bytes)
        share.hold(len(data))
        return data

    async def _write(self, context: Context, written: bytes) -> None:
        """Send the response; disconnect a client that does not read it, since no status would reach it either."""
        writing = asyncio.ensure_future(context.write(written))
        # Otherwise an exception after the call has ended would be logged.
        writing.add_done_callback(lambda done: done.cancelled() or done.exception())
        shares = [self._unsent.open(), self._endpoint.held.open()]
        peer, port, gone = context.peer(), self._settings.grpc_port, asyncio.Event()

        def evict() -> None:
            for share in shares:
                share.close()
            cut(peer, port)
            gone.set()

        # Held before it can be evicted: a new call among many is not one that does not read.
        shares[0].hold(1)
        shares[1].hold(len(written))
        for share in shares:
            share.evict = evict
        try:
            await asyncio.wait({writing}, timeout=self._settings.idle_seconds)
            if not writing.done():
                evict()
                # gRPC's own task: cancelling it would not free the response.
                await asyncio.wait({writing}, timeout=CANCEL_SECONDS)
            # Writing fails in gRPC only if the connection has ended.
            if gone.is_set() or writing.exception() is not None:
                raise asyncio.CancelledError
        finally:
            for share in shares:
                share.close()

    # Calls

    async def _server_live(self, context: Context) -> bytes:
        await self._read(messages.ServerLiveRequest, context)
        return _serialize(messages.ServerLiveResponse(live=True))

    async def _server_ready(self, context: Context) -> bytes:
        await self._read(messages.ServerReadyRequest, context)
        return _serialize(messages.ServerReadyResponse(ready=self._service.readiness.ready))

    async def _model_ready(self, context: Context) -> bytes:
        asked = await self._read(messages.ModelReadyRequest, context)
        self._endpoint.model(asked.name, asked.version)
        return _serialize(messages.ModelReadyResponse(ready=self._service.readiness.ready))

    async def _server_metadata(self, context: Context) -> bytes:
        await self._read(messages.ServerMetadataRequest, context)
        manifest = self._service.manifest
        version = manifest.version if manifest is not None else ""
        # HTTP's extension for binary tensors does not apply to gRPC.
        return _serialize(messages.ServerMetadataResponse(name="edge-deploy", version=version))

    async def _model_metadata(self, context: Context) -> bytes:
        asked = await self._read(messages.ModelMetadataRequest, context)
        manifest = self._endpoint.model(asked.name, asked.version)
        output = {"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(manifest.classes)]}
        return model_metadata(manifest, platform_of(manifest), describe_inputs(manifest), [output])

    async def _model_infer(self, context: Context) -> bytes:
        self._access.check(_authorization(context), has_certificate="x509_pem_cert" in context.auth_context())
        share = self._endpoint.open()
        try:
            data = await self._message(context, share)
            loop = asyncio.get_running_loop()
            since = loop.time()
            self._endpoint.enter()
            try:
                answer = self._infer(data)
                written, images = answer if isinstance(answer, tuple) else await self._in_time(answer)
            finally:
                self._endpoint.leave()
        finally:
            share.close()
        self._metrics.answered_request("grpc", 200, loop.time() - since, images)
        return written

    async def _in_time(self, answer: "asyncio.Future[Answer]") -> Answer:
        """Wait for the answer; cancel it on timeout or if the client disconnects."""
        seconds = self._settings.request_seconds
        try:
            return await _within(seconds, answer)
        except asyncio.TimeoutError:
            message = f"there was no response within {seconds} s (REQUEST_SECONDS); try again later"
            raise RequestError(message, status=503) from None

    def _infer(self, data: bytes) -> Union[Answer, "asyncio.Future[Answer]"]:
        manifest = self._service.manifest
        assert manifest is not None, "enter() has found a model"

        def parse() -> InferRequest:
            message = decode_message(messages.ModelInferRequest, data)
            self._endpoint.model(message.model_name, message.model_version)
            return infer_request(message)

        def render(asked: InferRequest, logits: NDArray[np.float32]) -> Answer:
            binary = asked.outputs[0].binary if asked.outputs else asked.binary
            return infer_response(manifest, asked, OUTPUT, logits, binary=binary), len(logits)

        return self._endpoint.answer(parse, render, size=len(data))


async def _within(seconds: float, awaited: Awaitable[Result]) -> Result:
    """Return the result; raise `asyncio.TimeoutError`; cancel `awaited` on timeout or if this is cancelled.

    `asyncio.wait_for` of Python 3.11 loses a cancellation that coincides with the result.
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


def _serialize(message: Any) -> bytes:
    written: bytes = message.SerializeToString()
    return written


def _authorization(context: Context) -> Optional[str]:
    # Binary metadata is not a token.
    found = [value for name, value in context.invocation_metadata() if name == "authorization"]
    if len(found) > 1:
        raise RequestError("the request has several authorization headers; send one")
    return found[-1] if found and isinstance(found[-1], str) else None
