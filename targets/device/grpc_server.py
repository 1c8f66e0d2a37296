"""The gRPC server: its port, its limits, TLS, and its end; imported only where GRPC_PORT asks for it."""

from __future__ import annotations

import os

# Its own lines would be no JSON; what it refuses reaches the client as a status. Must be set before it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from targets.device.access import Access
from targets.device.endpoint import Endpoint
from targets.device.grpc_calls import Calls
from targets.device.settings import SettingError, Settings

# gRPC counts bytes in an int of 32 bits.
MOST_BYTES = 2**31 - 1
# Besides requests on their way, those that hold a place and those whose answer is not taken yet: calls that ask for
# metadata, or are about to be refused. gRPC turns away more by itself, so nobody may hold one for long.
MORE_CALLS = 96
# As a mask of algorithms: none. A compressed message is measured only once it is decompressed, so it has no limit.
NO_COMPRESSION = 1


class GrpcServer:
    """Made within the loop that serves it; raises `SettingError` where it cannot listen."""

    def __init__(self, endpoint: Endpoint, access: Access) -> None:
        settings = endpoint.settings
        self._server = grpc.aio.server(
            handlers=[Calls(endpoint, access).handler()],
            options=_options(settings),
            maximum_concurrent_rpcs=3 * settings.max_waiting + MORE_CALLS,
        )
        address = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            if access.tls is None:
                self._server.add_insecure_port(f"{address}:{settings.grpc_port}")
            else:
                self._server.add_secure_port(f"{address}:{settings.grpc_port}", _credentials(settings))
        except RuntimeError as error:
            raise SettingError(
                f"cannot listen on HOST {settings.host!r}, GRPC_PORT {settings.grpc_port}: {error}. Use another port, "
                "or end the program that has it; HOST must be an address of this machine."
            ) from None

    async def start(self) -> None:
        await self._server.start()

    async def end(self, seconds: float) -> None:
        """Take no more calls, and let those at hand finish; those that have not within `seconds` are cancelled."""
        await self._server.stop(seconds)


def _options(settings: Settings) -> "list[tuple[str, int]]":
    return [
        ("grpc.max_receive_message_length", min(settings.max_body_bytes, MOST_BYTES)),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_concurrent_streams", 3 * settings.max_waiting + MORE_CALLS),
        ("grpc.max_connection_idle_ms", settings.idle_seconds * 1000),
        ("grpc.server_handshake_timeout_ms", settings.head_seconds * 1000),
        ("grpc.compression_enabled_algorithms_bitset", NO_COMPRESSION),
        # Else a second server could listen on the same port, and get half of the connections.
        ("grpc.so_reuseport", 0),
    ]


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    """The files that `Access` has checked; gRPC asks for a client's certificate of all or of none."""
    assert settings.tls_key is not None
    assert settings.tls_certificate is not None
    authorities = None if settings.tls_client_ca is None else settings.tls_client_ca.read_bytes()
    pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
    return grpc.ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)
