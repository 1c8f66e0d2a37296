"""Divide a container's memory into limits of the server, so that no client can exhaust it."""

from collections.abc import Mapping

from targets.device.model.image_files import BYTES_PER_PIXEL
from targets.device.server.inputs import RESIZING
from targets.device.settings import MEBIBYTE, Settings

# Fixed use in MiB. Measured: a server with ONNX Runtime and a model of a few MiB needs
# 52, the health check's process beside it 12.
BASE_MIB = 64
GRPC_MIB = 16
# Below this, not even one inference request with a body of one MiB fits besides some connections.
MIN_SPARE_MIB = 32
# Of the rest: an eighth for headers and responses waiting for their clients, the same for connections at 64 KiB each
# (TLS; without it a tenth of that), a quarter for bodies, a quarter for JSON, which takes up to 16 times its size as
# Python's numbers and is read one request at a time, and a quarter for decoded images of all instances.
SHARE_OF_HELD, SHARE_OF_BODIES, SHARE_OF_IMAGES, CONNECTIONS_PER_MIB = 8, 4, 4, 2
MIB_PER_MEBIPIXEL = BYTES_PER_PIXEL * RESIZING


def least_mib(*, with_grpc: bool) -> int:
    """Return the smallest memory in which the limits of `limits_of` hold."""
    return BASE_MIB + MIN_SPARE_MIB + (GRPC_MIB if with_grpc else 0)


def limits_of(memory_mib: int, *, with_grpc: bool) -> Mapping[str, int]:
    """Return settings by name, for a memory of at least `least_mib`; none exceeds the server's own default."""
    spare = memory_mib - BASE_MIB - (GRPC_MIB if with_grpc else 0)
    bodies, images = spare // SHARE_OF_BODIES, spare // SHARE_OF_IMAGES
    body = max(1, min(Settings.max_body_bytes // MEBIBYTE, bodies // Settings.max_waiting))
    return {
        "MAX_BODY_MIB": body,
        "MAX_IMAGE_MIPIXELS": max(1, min(Settings.max_image_pixels >> 20, int(images / MIB_PER_MEBIPIXEL))),
        "MAX_WAITING": min(Settings.max_waiting, bodies // body),
        "MAX_HELD_MIB": min(Settings.max_held_bytes // MEBIBYTE, spare // SHARE_OF_HELD),
        "MAX_CONNECTIONS": min(Settings.max_connections, spare * CONNECTIONS_PER_MIB),
    }
