"""The Open Inference Protocol v2 over HTTP for this device's model: paths, statuses, bodies."""

from __future__ import annotations

import asyncio
import logging
from typing import Callable, Dict, Optional, Tuple, Union
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from targets.device.log import Throttle
from targets.device.model.manifest import Manifest
from targets.device.server.access import Access
from targets.device.server.bodies import (
    IDENTITY,
    MIN_BYTES,
    accepted_encoding,
    check_amounts,
    compress_body,
    content_encoding,
    decompress_body,
)
from targets.device.server.connection import Answer
from targets.device.server.connection_pool import Connections
from targets.device.server.endpoint import OUTPUT, Endpoint
from targets.device.server.evidence import document_of, predictions_of
from targets.device.server.messages import BINARY, HTML, JSON, Request, Response, error_response, json_response
from targets.device.server.metrics import CONTENT_TYPE
from targets.device.server.protocol import (
    BINARY_EXTENSION,
    LENGTH_HEADER,
    InferRequest,
    byte_count,
    parse_request,
    render_response,
)
from targets.device.server.reader import body_too_large
from targets.device.server.service import NotReady
from targets.device.server.status import metadata_of, page, status_of
from targets.device.server.tensors import BUG, RequestError

LOG = logging.getLogger(__name__)
MODELS = "/v2/models/"
LENGTH = LENGTH_HEADER.lower()
UNSTORED = [("Cache-Control", "no-store")]
Handler = Callable[[Request], Response]
# Longest part of a path in messages; a path may be as long as a head.
SHOWN_LETTERS = 200
# Paths with the same access rules as inference.
GUARDED = ("/metrics", "/status.json", "/proof", "/proof/predictions.npz")


class Application:
    """Handler of the protocol's requests for one `Endpoint`."""

    def __init__(self, endpoint: Endpoint, access: Access, connections: Connections) -> None:
        self._endpoint = endpoint
        self._service = endpoint.service
        self._metrics = endpoint.service.metrics
        self._settings = endpoint.settings
        self._access = access
        self._connections = connections
        self._throttle = Throttle()
        content, policy = page()
        security = [
            ("Content-Security-Policy", policy),
            ("Cache-Control", "no-cache"),
            ("Referrer-Policy", "no-referrer"),
        ]
        self._paths: Dict[str, Handler] = {
            "/": lambda _request: Response(200, content, HTML, security),
            "/v2": self._server_metadata,
            "/v2/health/live": lambda _request: json_response({"live": True}),
            "/v2/health/ready": self._ready,
            "/metrics": self._metrics_text,
            "/status.json": self._status,
            "/proof": self._proof,
            "/proof/predictions.npz": self._predictions,
        }

    def admit(self, request: Request) -> None:
        """Implement `connection.Application`; only inference requests have a body that is read."""
        try:
            self._admit(request)
        except NotReady as error:
            raise RequestError(str(error), status=503) from None

    def enter(self, request: Request) -> None:
        if not request.is_admitted:
            return
        try:
            self._endpoint.enter()
        except NotReady as error:
            raise RequestError(str(error), status=503) from None
        request.has_place = True

    def release(self, request: Request) -> None:
        if request.share is not None:
            request.share.close()
            request.share = None
        if request.has_place:
            request.has_place = False
            self._endpoint.leave()

    def answer(self, request: Request) -> Answer:
        """Implement `connection.Application`: every exception becomes a response."""
        try:
            if not request.is_admitted:
                return self._handler(request)(request)
            answer = self._infer(request)
        except Exception as error:  # noqa: BLE001 - a bug is logged, and fails only this request
            return self._failure(request, error)
        if isinstance(answer, Response):
            return answer
        response: asyncio.Future[Response] = self._connections.loop.create_future()

        def done(computed: asyncio.Future[Response]) -> None:
            if response.cancelled() or computed.cancelled():
                return
            error = computed.exception()
            response.set_result(computed.result() if error is None else self._failure(request, error))

        computed = answer
        answer.add_done_callback(done)
        # The client is gone or the request timed out: cancel work that has not begun.
        response.add_done_callback(lambda ended: computed.cancel() if ended.cancelled() else None)
        return response

    def refusal(self, request: Optional[Request], error: RequestError) -> Response:
        path = None if request is None else request.path
        self._metrics.refused_request(error.status)
        if self._throttle.lets_through():
            fields = {
                "path": path and path[:SHOWN_LETTERS],
                "status": error.status,
                "error": str(error),
                **self._throttle.fields(),
            }
            LOG.warning("request refused", extra={"fields": fields})
        headers = []
        if error.status in (429, 503):
            headers.append(("Retry-After", "1"))
        elif error.status == 401:
            headers.append(("WWW-Authenticate", 'Bearer realm="edge-deploy"'))
        elif error.status == 405:
            headers.append(("Allow", "POST" if path is not None and path.endswith("/infer") else "GET, HEAD"))
        return error_response(str(error), error.status, headers)

    def sent(self, request: Request, response: Response, seconds: float) -> None:
        if request.path.endswith("/infer"):
            self._metrics.answered_request("http", response.status, seconds, response.images)
        if LOG.isEnabledFor(logging.DEBUG):
            fields = {"method": request.method, "path": request.path, "status": response.status, "seconds": seconds}
            LOG.debug("request answered", extra={"fields": fields})

    # Heads

    def _admit(self, request: Request) -> None:
        announced = byte_count("Content-Length", request.headers.get("content-length", "0"))
        if not request.path.startswith(MODELS) or not request.path.endswith("/infer"):
            self._handler(request)
            if announced > request.max_body_bytes:
                raise body_too_large(request.max_body_bytes)
            return
        self._model(request.path[: -len("/infer")])
        if request.method != "POST":
            raise _wrong_method(request)
        self._access.check(request.headers.get("authorization"), has_certificate=request.has_certificate)
        content_encoding(request.headers.get("content-encoding"))
        if announced > self._settings.max_body_bytes:
            raise body_too_large(self._settings.max_body_bytes)
        request.share = self._endpoint.open()
        request.is_admitted = True
        request.max_body_bytes = self._settings.max_body_bytes

    def _handler(self, request: Request) -> Handler:
        """Return the handler of all requests but inference; raise `RequestError`."""
        handler = self._paths.get(request.path)
        if handler is None and request.path.startswith(MODELS):
            is_ready = request.path.endswith("/ready")
            manifest = self._model(request.path[: -len("/ready")] if is_ready else request.path)
            handler = (
                self._model_ready if is_ready else lambda _request: json_response(metadata_of(self._service, manifest))
            )
        if handler is None:
            raise _not_found_error(request.path)
        if request.method not in ("GET", "HEAD"):
            raise _wrong_method(request)
        if request.path in GUARDED:
            self._access.check(request.headers.get("authorization"), has_certificate=request.has_certificate)
        return handler

    def _model(self, path: str) -> Manifest:
        """Return the model at `/v2/models/NAME` or `.../NAME/versions/VERSION`; raise `RequestError` or `NotReady`."""
        parts = path[len(MODELS) :].split("/")
        if len(parts) == 3 and parts[1] == "versions":
            return self._endpoint.model(unquote(parts[0]), unquote(parts[2]))
        if len(parts) == 1:
            return self._endpoint.model(unquote(parts[0]), None)
        raise _not_found_error(path)

    # Answers

    def _infer(self, request: Request) -> Union[Response, "asyncio.Future[Response]"]:
        manifest = self._service.manifest
        assert manifest is not None
        headers, body, limit = request.headers, request.body, self._settings.max_body_bytes
        coding = accepted_encoding(headers.get("accept-encoding"))

        def check(text: bytes) -> None:
            check_amounts(text, manifest.input_shape, self._settings.max_batch)

        def parse() -> InferRequest:
            plain = decompress_body(body, content_encoding(headers.get("content-encoding")), limit)
            return parse_request(plain, headers.get(LENGTH), check)

        def render(asked: InferRequest, logits: NDArray[np.float32]) -> Response:
            content, length = render_response(
                model_name=manifest.name,
                model_version=manifest.version,
                request_id=asked.id,
                outputs=[(OUTPUT, logits, _is_binary(asked))],
            )
            return _infer_response(content, length, coding, len(logits))

        # A compressed body may become much larger.
        size = len(body) if headers.get("content-encoding", IDENTITY) == IDENTITY else limit
        return self._endpoint.answer(parse, render, size=size)

    def _failure(self, request: Request, error: BaseException) -> Response:
        if isinstance(error, RequestError):
            return self.refusal(request, error)
        if isinstance(error, NotReady):
            return self.refusal(request, RequestError(str(error), status=503))
        LOG.error(
            "a request could not be answered", exc_info=error, extra={"fields": {"path": request.path[:SHOWN_LETTERS]}}
        )
        self._metrics.refused_request(500)
        return error_response(BUG, 500)

    def _server_metadata(self, _request: Request) -> Response:
        manifest = self._service.manifest
        version = manifest.version if manifest is not None else ""
        return json_response({"name": "edge-deploy", "version": version, "extensions": [BINARY_EXTENSION]})

    def _ready(self, _request: Request) -> Response:
        readiness = self._service.readiness
        if readiness.ready:
            return json_response({"ready": True})
        return json_response({"ready": False, "loading": readiness.loading, "error": readiness.reason}, 503)

    def _model_ready(self, _request: Request) -> Response:
        readiness, manifest = self._service.readiness, self._service.manifest
        name = manifest.name if manifest is not None else ""
        if readiness.ready:
            return json_response({"name": name, "ready": True})
        return json_response({"name": name, "ready": False, "error": readiness.reason}, 503)

    def _metrics_text(self, _request: Request) -> Response:
        manifest = self._service.manifest
        if manifest is not None:
            self._metrics.describe(manifest, self._service.place)
        self._metrics.starting(self._service.progress.seconds_by_phase())
        text = self._metrics.text(
            waiting=self._endpoint.waiting,
            connections=len(self._connections),
            ready=self._service.readiness.ready,
        )
        return Response(200, text, CONTENT_TYPE)

    def _status(self, _request: Request) -> Response:
        status = status_of(self._service, waiting=self._endpoint.waiting, connections=len(self._connections))
        return json_response(status, headers=UNSTORED)

    def _proof(self, _request: Request) -> Response:
        return json_response(document_of(self._service), headers=UNSTORED)

    def _predictions(self, _request: Request) -> Response:
        content = predictions_of(self._service)
        if content is None:
            return error_response("there are no predictions of this device, or not yet; see /proof", 404)
        return Response(200, content, BINARY, UNSTORED)


def _infer_response(content: bytes, length: Optional[int], coding: str, images: int) -> Response:
    headers: "list[Tuple[str, str]]" = [] if length is None else [(LENGTH_HEADER, str(length))]
    if coding != IDENTITY and len(content) >= MIN_BYTES:
        content = compress_body(content, coding)
        headers += [("Content-Encoding", coding), ("Vary", "Accept-Encoding")]
    response = Response(200, content, JSON if length is None else BINARY, headers)
    response.images = images
    return response


def _is_binary(request: InferRequest) -> bool:
    return request.outputs[0].binary if request.outputs else request.binary


def _not_found_error(path: str) -> RequestError:
    return RequestError(
        f"Not Found: there is no resource {path[:SHOWN_LETTERS]!r}; the protocol's paths begin with /v2", 404
    )


def _wrong_method(request: Request) -> RequestError:
    return RequestError(
        f"Method Not Allowed: {request.path[:SHOWN_LETTERS]!r} does not support {request.method}", status=405
    )
