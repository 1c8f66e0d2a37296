"""The process that serves: its socket, its signals, and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
from typing import TYPE_CHECKING, Optional

from targets.device.access import Access
from targets.device.allocator import give_back_large_blocks
from targets.device.application import Application
from targets.device.connection import Connection
from targets.device.connections import Connections
from targets.device.endpoint import Endpoint
from targets.device.service import Service
from targets.device.settings import SettingError, Settings
from targets.device.watch import Watch

if TYPE_CHECKING:
    from targets.device.grpc_server import GrpcServer

LOG = logging.getLogger(__name__)
BACKLOG = 128
# What the model runs when nobody waits for it any more may take so long at the end.
CLOSE_SECONDS = 1.0
# Turns of the loop in which what has arrived is accepted, read and begun.
TURNS = 8
# Files and sockets of our own besides the connections.
SPARE_FILES = 64
# Of this process's threads: the model's, the watch's, those that compute, gRPC's, and a health check beside them.
LEAST_PROCESSES = 64


class Server:
    """Answers on one socket, within one event loop."""

    def __init__(self, service: Service, settings: Settings, access: Access) -> None:
        self._service = service
        self._settings = settings
        self._access = access
        self._stopping = asyncio.Event()
        self.endpoint = Endpoint(service, settings)
        self._connections = Connections(settings.max_connections, self.endpoint.held)
        self._application = Application(self.endpoint, access, self._connections)
        self._grpc: Optional[GrpcServer] = _grpc_server()(self.endpoint, access) if settings.grpc_port else None

    async def run(self, listener: socket.socket) -> None:
        """Until `stop`; requests at hand are finished first."""
        loop = asyncio.get_running_loop()
        # Not asyncio's own TLS server: it counts a connection only once the handshake is done.
        made = lambda: Connection(  # noqa: E731
            self._application, self._connections, self._settings, tls=self._access.tls
        )
        accepting = await loop.create_server(made, sock=listener, backlog=BACKLOG)
        if self._grpc is not None:
            await self._grpc.start()
        watch = Watch(lambda: self._service.running, self._settings.request_seconds)
        await self._stopping.wait()
        LOG.info("stopping", extra={"fields": {"waiting_requests": self.endpoint.waiting}})
        # What was sent before the signal is not to be lost with its connection.
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self.endpoint.end()
        self._service.stop()
        accepting.close()
        left = await self._end()
        if left:
            fields = {"connections": left, "seconds": self._settings.grace_seconds}
            LOG.warning("the time for requests at hand is over (GRACE_SECONDS)", extra={"fields": fields})
        watch.stop()

    def stop(self) -> None:
        self._stopping.set()

    async def _end(self) -> int:
        """The number of connections whose requests did not finish in time."""
        seconds = self._settings.grace_seconds
        if self._grpc is None:
            return await self._connections.end(seconds)
        left, _ = await asyncio.gather(self._connections.end(seconds), self._grpc.end(seconds))
        return left


def serve(settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT; requests at hand are finished first. Raises `SettingError`."""
    try:
        _serve_until_stopped(settings)
    except RuntimeError as error:
        # So says Python where the kernel refuses one.
        if "start new thread" not in str(error):
            raise
        raise SettingError(
            f"{error}: this container or user may have too few processes. Allow at least {LEAST_PROCESSES} "
            f"(docker run --pids-limit {LEAST_PROCESSES})"
        ) from None


def _serve_until_stopped(settings: Settings) -> None:
    give_back_large_blocks()
    # gRPC counts its own.
    _allow_files(settings.max_connections, ports=2 if settings.grpc_port else 1)
    access = Access(settings)
    if settings.grpc_port:
        _grpc_server()
    with _listening(settings) as listener:
        service = Service(settings.model_folder, settings)
        try:
            asyncio.run(_serve(service, settings, access, listener))
        finally:
            has_ended = service.close(CLOSE_SECONDS)
    LOG.info("stopped")
    if not has_ended:
        # The interpreter's end under a runtime that computes could crash.
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


def _grpc_server() -> "type[GrpcServer]":
    """Imported here, as most images have no gRPC; raises `SettingError` where this one has none."""
    try:
        from targets.device.grpc_server import GrpcServer
    except ImportError as error:
        raise SettingError(
            f"GRPC_PORT is set, but this image has no gRPC ({error}). Build it with --grpc, or leave GRPC_PORT unset."
        ) from None
    return GrpcServer


def _listening(settings: Settings) -> socket.socket:
    """The socket to listen on; taken before the model is loaded, and with a message of our own where it cannot be."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
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


def _allow_files(connections: int, *, ports: int = 1) -> None:
    """Raise this process's own limit where so many to each port are above it; raises `SettingError`."""
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
