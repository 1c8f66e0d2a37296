"""The gRPC server: port, limits, TLS and shutdown; imported only if GRPC_PORT is set."""

from __future__ import annotations

import os

# gRPC's log lines are not JSON; clients get refusals as a status. Must be set before the import.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from targets.device.grpc.calls import Calls
from targets.device.server.access import Access
from targets.device.server.endpoint import Endpoint
from targets.device.settings import SettingError, Settings

# gRPC counts bytes in an int of 32 bits.
MAX_BYTES = 2**31 - 1
# Calls for metadata or about to be refused, in addition to requests that are arriving, hold a place, or whose response
# is not read yet. gRPC rejects calls above the limit, so no client may hold one for long.
EXTRA_RPC_SLOTS = 96
# Bit mask of algorithms: none. Message sizes are checked only after decompression, so there would be no limit.
NO_COMPRESSION = 1


class GrpcServer:
    """The gRPC server; created in the loop that serves it. Raises `SettingError` if it cannot listen."""

    def __init__(self, endpoint: Endpoint, access: Access) -> None:
        settings = endpoint.settings
        self._server = grpc.aio.server(
            handlers=[Calls(endpoint, access).handler()],
            options=_options(settings),
            maximum_concurrent_rpcs=3 * settings.max_waiting + EXTRA_RPC_SLOTS,
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
                "or stop the program that uses it; HOST must be an address of this machine."
            ) from None

    async def start(self) -> None:
        await self._server.start()

    async def end(self, seconds: float) -> None:
        """Reject new calls and let current ones finish; after `seconds`, cancel the rest."""
        await self._server.stop(seconds)


def _options(settings: Settings) -> "list[tuple[str, int]]":
    return [
        ("grpc.max_receive_message_length", min(settings.max_body_bytes, MAX_BYTES)),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_concurrent_streams", 3 * settings.max_waiting + EXTRA_RPC_SLOTS),
        ("grpc.max_connection_idle_ms", settings.idle_seconds * 1000),
        ("grpc.server_handshake_timeout_ms", settings.head_seconds * 1000),
        ("grpc.compression_enabled_algorithms_bitset", NO_COMPRESSION),
        # Otherwise a second server could listen on the same port and get half of the connections.
        ("grpc.so_reuseport", 0),
    ]


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    """Return credentials from the files that `Access` has checked; gRPC requires or ignores client certificates."""
    assert settings.tls_key is not None
    assert settings.tls_certificate is not None
    authorities = None if settings.tls_client_ca is None else settings.tls_client_ca.read_bytes()
    pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
    return grpc.ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)
