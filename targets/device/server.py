"""The Open Inference Protocol v2 over HTTP, for the one model of this device."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator, Dict, List, Optional, Tuple

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from targets.device.inputs import checked_input, described, network_input
from targets.device.manifest import Manifest
from targets.device.protocol import (
    BINARY_EXTENSION,
    LENGTH_HEADER,
    InferRequest,
    RequestError,
    byte_count,
    parse_request,
    render_response,
)
from targets.device.service import NotReady, Service
from targets.device.settings import SettingError, Settings

LOG = logging.getLogger(__name__)
OUTPUT = "logits"
# Docker waits ten seconds between SIGTERM and SIGKILL.
GRACE_SECONDS = 8


class Server:
    """The protocol's answers; one of it serves one `Service`."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._waiting = 0

    def application(self) -> Starlette:
        model = "/v2/models/{model}"
        routes: List[Route] = [
            Route("/v2", self.server_metadata),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
        ]
        for path in (model, model + "/versions/{version}"):
            routes += [
                Route(path, self.model_metadata),
                Route(path + "/ready", self.model_ready),
                Route(path + "/infer", self.infer, methods=["POST"]),
            ]

        @asynccontextmanager
        async def lifespan(_application: Starlette) -> AsyncIterator[None]:
            yield
            self._service.close()

        # Exceptions that are not named here end as a bug of ours: logged with traceback, answered with status 500.
        handlers: Any = {
            HTTPException: _on_http_error,
            RequestError: _on_request_error,
            NotReady: _on_not_ready,
            500: _on_bug,
        }
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)

    async def server_metadata(self, _request: Request) -> Response:
        manifest = self._service.manifest
        version = manifest.version if manifest is not None else ""
        return JSONResponse({"name": "edge-deploy", "version": version, "extensions": [BINARY_EXTENSION]})

    async def live(self, _request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, _request: Request) -> Response:
        readiness = self._service.readiness
        if readiness.ready:
            return JSONResponse({"ready": True})
        return JSONResponse({"ready": False, "loading": readiness.loading, "error": readiness.reason}, status_code=503)

    async def model_ready(self, request: Request) -> Response:
        manifest = self._asked_for(request)
        readiness = self._service.readiness
        if readiness.ready:
            return JSONResponse({"name": manifest.name, "ready": True})
        return JSONResponse({"name": manifest.name, "ready": False, "error": readiness.reason}, status_code=503)

    async def model_metadata(self, request: Request) -> Response:
        manifest = self._asked_for(request)
        return JSONResponse(
            {
                "name": manifest.name,
                "versions": [manifest.version],
                "platform": "onnx_onnxv1",
                "inputs": described(manifest),
                "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(manifest.classes)]}],
                "parameters": {
                    "classes": list(manifest.classes),
                    "target": manifest.target,
                    "precision": manifest.precision,
                    "variant": self._service.variant,
                    "model_sha256": manifest.model_sha256,
                    "runs_on": self._service.place,
                },
            }
        )

    async def infer(self, request: Request) -> Response:
        manifest = self._asked_for(request)
        readiness = self._service.readiness
        if not readiness.ready:
            raise NotReady(readiness.reason)
        if self._waiting >= self._settings.max_waiting:
            raise RequestError(f"{self._waiting} requests are being answered already; try again", status=503)
        self._waiting += 1
        try:
            body = await self._body_in_time(request)
            json_length = request.headers.get(LENGTH_HEADER)
            answer = self._service.submit(lambda: self._answer(manifest, body, json_length))
            content, length = await asyncio.wrap_future(answer)
        finally:
            self._waiting -= 1
        if length is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={LENGTH_HEADER: str(length)}, media_type="application/octet-stream")

    def _asked_for(self, request: Request) -> Manifest:
        manifest = self._service.manifest
        if manifest is None:
            raise NotReady(self._service.readiness.reason)
        name, version = request.path_params["model"], request.path_params.get("version")
        if name != manifest.name:
            raise RequestError(f"there is no model {name!r} here; this server has {manifest.name!r}", status=404)
        if version is not None and version != manifest.version:
            raise RequestError(
                f"there is no version {version!r} of {name!r} here; this server has {manifest.version!r}", status=404
            )
        return manifest

    async def _body_in_time(self, request: Request) -> bytes:
        # A client that is switched off while it sends would keep its place for ever.
        seconds = self._settings.body_seconds
        try:
            return await asyncio.wait_for(self._body(request), seconds)
        except asyncio.TimeoutError:
            raise RequestError(f"the body did not arrive within {seconds} s (BODY_SECONDS)", status=408) from None

    async def _body(self, request: Request) -> bytes:
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise RequestError(f"Content-Encoding {encoding!r} is not supported; send the body as it is", status=415)
        limit = self._settings.max_body_bytes
        too_large = RequestError(
            f"the body is larger than the {limit} bytes that are taken (MAX_BODY_MIB)", status=413
        )
        # A chunked body announces no length; one that is not kept to is caught by the HTTP parser.
        if byte_count("Content-Length", request.headers.get("content-length", "0")) > limit:
            raise too_large
        chunks: List[bytes] = []
        size = 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise too_large
                chunks.append(chunk)
        except ClientDisconnect:
            raise RequestError("the client went away before its request was complete") from None
        return b"".join(chunks)

    def _answer(self, manifest: Manifest, body: bytes, json_length: Optional[str]) -> Tuple[bytes, Optional[int]]:
        """Everything that takes time, in the model's thread: parse, infer, write."""
        request = parse_request(body, json_length)
        name, values = checked_input(request, manifest, self._settings.max_batch)
        binary = _binary_output(request)
        logits = self._service.infer(network_input(name, values, manifest, self._settings.max_image_pixels))
        return render_response(
            model_name=manifest.name,
            model_version=manifest.version,
            request_id=request.id,
            outputs=[(OUTPUT, logits, binary)],
        )


def _binary_output(request: InferRequest) -> bool:
    binary = request.binary
    for output in request.outputs or ():
        if output.name != OUTPUT:
            raise RequestError(f"there is no output {output.name[:60]!r}; the model has {OUTPUT!r}")
        binary = output.binary
    return binary


async def _on_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers: Dict[str, str] = {}
    if error.status == 503:
        headers = {"Retry-After": "1"}
    elif error.status == 408:
        headers = {"Connection": "close"}
    fields = {"path": request.scope["path"], "status": error.status, "error": str(error)}
    LOG.warning("request refused", extra={"fields": fields})
    return JSONResponse({"error": str(error)}, status_code=error.status, headers=headers)


async def _on_not_ready(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=503, headers={"Retry-After": "1"})


async def _on_bug(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "internal error; the server's log has the details"}, status_code=500)


class _Protocol(H11Protocol):
    """uvicorn's HTTP, whose answer to what is no HTTP is JSON like every other error."""

    def send_400_response(self, msg: str) -> None:
        body = json.dumps({"error": msg}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        # With an answer under way there is nothing left to say.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def serve(settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT; requests at hand are finished first. Raises `SettingError` for a taken port."""
    with _listening(settings) as listener:
        service = Service(settings.model_folder)
        LOG.info("listening", extra={"fields": {"host": settings.host, "port": settings.port}})
        config = uvicorn.Config(
            Server(service, settings).application(),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            http=_Protocol,
            loop="asyncio",
            ws="none",
        )
        server = uvicorn.Server(config)
        # It sets these handlers itself, but only once it runs; and at its end it restores what was there before, and
        # sends itself the signal again, which must find one that does no harm.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle_exit)
        server.run(sockets=[listener])


def _listening(settings: Settings) -> socket.socket:
    """The socket to listen on; taken before the model is loaded, and with a message of our own where it cannot be."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family)
    # TypeError: a name that cannot be one of a host, as bind() says.
    except (OSError, TypeError) as error:
        raise SettingError(
            f"cannot listen on HOST {settings.host!r}, PORT {settings.port}: {error}. Use another port, or end the "
            "program that has it; HOST must be an address of this machine."
        ) from None
    # Connections inherit it. asyncio sets it only on sockets that name TCP as their protocol, which this one does not;
    # without it the body of an answer waits 40 ms, until the client acknowledges the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
