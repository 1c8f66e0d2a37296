"""The server process: socket, signals and shutdown."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
from typing import TYPE_CHECKING, Optional

from targets.device.server.access import Access
from targets.device.server.allocator import return_large_blocks
from targets.device.server.application import Application
from targets.device.server.connection import Connection
from targets.device.server.connection_pool import Connections
from targets.device.server.endpoint import Endpoint
from targets.device.server.service import Service
from targets.device.server.watchdog import Watch
from targets.device.settings import SettingError, Settings

if TYPE_CHECKING:
    from targets.device.grpc.server import GrpcServer

LOG = logging.getLogger(__name__)
BACKLOG = 128
# How long the shutdown waits for a run of the model whose client is gone.
CLOSE_SECONDS = 1.0
# Loop iterations in which connections and data that have already arrived are accepted and read.
DRAIN_ITERATIONS = 8
# Files and sockets of the server itself, besides the connections.
SPARE_FILES = 64
# Threads of the model, the watchdog, the kernels and gRPC, and a health check process.
MIN_PROCESSES = 64


class Server:
    """The server on one socket, in one event loop."""

    def __init__(self, service: Service, settings: Settings, access: Access) -> None:
        self._service = service
        self._settings = settings
        self._access = access
        self._stopping = asyncio.Event()
        self.endpoint = Endpoint(service, settings)
        self._connections = Connections(settings.max_connections, self.endpoint.held)
        self._application = Application(self.endpoint, access, self._connections)
        self._grpc: Optional[GrpcServer] = _import_grpc_server()(self.endpoint, access) if settings.grpc_port else None

    async def run(self, listener: socket.socket) -> None:
        """Serve until `stop`; requests in progress are finished first."""
        loop = asyncio.get_running_loop()
        # Not asyncio's own TLS server: it reports a connection only after the handshake.
        made = lambda: Connection(  # noqa: E731
            self._application, self._connections, self._settings, tls=self._access.tls
        )
        accepting = await loop.create_server(made, sock=listener, backlog=BACKLOG)
        if self._grpc is not None:
            await self._grpc.start()
        watch = Watch(lambda: self._service.running, self._settings.request_seconds)
        await self._stopping.wait()
        LOG.info("stopping", extra={"fields": {"waiting_requests": self.endpoint.waiting}})
        # Requests sent before the signal must not be lost with their connection.
        for _ in range(DRAIN_ITERATIONS):
            await asyncio.sleep(0)
        self.endpoint.end()
        self._service.stop()
        accepting.close()
        left = await self._end()
        if left:
            fields = {"connections": left, "seconds": self._settings.grace_seconds}
            LOG.warning("requests in progress did not finish in time (GRACE_SECONDS)", extra={"fields": fields})
        watch.stop()

    def stop(self) -> None:
        self._stopping.set()

    async def _end(self) -> int:
        """Close all connections and return the number whose requests did not finish in time."""
        seconds = self._settings.grace_seconds
        if self._grpc is None:
            return await self._connections.end(seconds)
        left, _ = await asyncio.gather(self._connections.end(seconds), self._grpc.end(seconds))
        return left


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; requests in progress are finished first. Raises `SettingError`."""
    try:
        _serve_until_stopped(settings)
    except RuntimeError as error:
        # Python's message if the kernel refuses a thread.
        if "start new thread" not in str(error):
            raise
        raise SettingError(
            f"{error}: the process limit of this container or user is too low. Allow at least {MIN_PROCESSES} "
            f"(docker run --pids-limit {MIN_PROCESSES})"
        ) from None


def _serve_until_stopped(settings: Settings) -> None:
    return_large_blocks()
    # gRPC counts its connections separately.
    _allow_files(settings.max_connections, ports=2 if settings.grpc_port else 1)
    access = Access(settings)
    if settings.grpc_port:
        _import_grpc_server()
    with _listen(settings) as listener:
        service = Service(settings.model_folder, settings)
        try:
            asyncio.run(_serve(service, settings, access, listener))
        finally:
            has_ended = service.close(CLOSE_SECONDS)
    LOG.info("stopped")
    if not has_ended:
        # A normal interpreter exit could crash while the runtime is still computing.
        sys.stdout.flush()
        os._exit(0)


async def _serve(service: Service, settings: Settings, access: Access, listener: socket.socket) -> None:
    server = Server(service, settings, access)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    fields = {"host": settings.host, "port": settings.port, "tls": access.tls is not None}
    if settings.grpc_port:
        fields["grpc_port"] = settings.grpc_port
    LOG.info("listening", extra={"fields": fields})
    await server.run(listener)


def _import_grpc_server() -> "type[GrpcServer]":
    """Import and return the gRPC server, which most images lack; raise `SettingError` if this one does."""
    try:
        from targets.device.grpc.server import GrpcServer
    except ImportError as error:
        raise SettingError(
            f"GRPC_PORT is set, but this image has no gRPC ({error}). Build it with --grpc, or unset GRPC_PORT."
        ) from None
    return GrpcServer


def _listen(settings: Settings) -> socket.socket:
    """Open the listening socket before the model is loaded; raise `SettingError`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    # TypeError: bind() does not accept the host name.
    except (OSError, TypeError) as error:
        raise SettingError(
            f"cannot listen on HOST {settings.host!r}, PORT {settings.port}: {error}. Use another port, or stop "
            "the program that uses it; HOST must be an address of this machine."
        ) from None
    # Connections inherit it. asyncio sets it only on sockets created with protocol TCP, which this one is not;
    # without it the body of a response waits 40 ms, until the client acknowledges the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _allow_files(connections: int, *, ports: int = 1) -> None:
    """Increase this process's file limit if needed for so many connections per port; raise `SettingError`."""
    wanted = ports * connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        most = (hard - SPARE_FILES) // ports
        less = f"use at most {most}, or raise" if most > 0 else f"the server itself needs {SPARE_FILES} of them: raise"
        raise SettingError(
            f"MAX_CONNECTIONS is {connections}, but this process may open only {hard} files; {less} the limit "
            f"(docker run --ulimit nofile={wanted})"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
