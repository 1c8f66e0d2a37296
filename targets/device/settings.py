"""Settings from a container's environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional

from targets.device.files import IMAGES_MODEL
from targets.device.model.image_files import MAX_PIXELS

MEBIBYTE = 1 << 20


class SettingError(ValueError):
    """An environment variable has an invalid value."""


@dataclass(frozen=True)
class Settings:
    """The settings of the environment; each has a default."""

    port: int = 8000
    """PORT"""
    grpc_port: int = 0
    """GRPC_PORT: port for the protocol over gRPC; 0: no gRPC. Needs an image built with gRPC."""
    host: str = "0.0.0.0"
    """HOST: the address to listen on."""
    model_folder: Path = Path(IMAGES_MODEL)
    """MODEL_FOLDER"""
    engine_cache: Path = Path("/var/cache/edge-deploy")
    """ENGINE_CACHE: where a TensorRT image keeps the engines it builds; use a volume, or they are lost."""
    measure_seconds: int = 10
    """MEASURE_SECONDS: how long a model is measured after it is proven here; 0: not at all."""
    max_batch: int = 64
    """MAX_BATCH: images per request."""
    max_body_bytes: int = 64 * MEBIBYTE
    """MAX_BODY_MIB: mebibytes per request body."""
    max_image_pixels: int = MAX_PIXELS
    """MAX_IMAGE_MIPIXELS, in units of 2**20: largest width times height of an encoded image."""
    max_waiting: int = 16
    """MAX_WAITING: complete requests that are waiting or being answered at the same time.

    Times MAX_BODY_MIB, it limits the memory of all bodies, including incomplete ones."""
    max_held_bytes: int = 64 * MEBIBYTE
    """MAX_HELD_MIB: mebibytes of incomplete heads and of responses that clients do not read, in total."""
    max_connections: int = 1024
    """MAX_CONNECTIONS: open connections; above it, a new one replaces the one that has been idle the longest.

    If none is idle, it replaces the one whose request has been arriving the longest.
    gRPC has the same limit of its own, and rejects new connections above it."""
    head_seconds: int = 10
    """HEAD_SECONDS: how long the head of a request may take to arrive."""
    body_seconds: int = 60
    """BODY_SECONDS: how long a request's body may take to arrive."""
    body_pace: int = 1024
    """BODY_PACE: minimum bytes per second of a body, averaged over more than five seconds; 0: no minimum."""
    request_seconds: int = 30
    """REQUEST_SECONDS: how long a complete request may wait for its answer."""
    idle_seconds: int = 75
    """IDLE_SECONDS: how long a connection may be idle between two requests."""
    grace_seconds: int = 8
    """GRACE_SECONDS: how long requests in progress may take after SIGTERM; by default Docker kills after ten."""
    instances: int = 0
    """INSTANCES: requests that run in parallel on one model in memory; 0: the cores that this container may use,
    divided by the model's own threads. A GPU runs one at a time."""
    batch_images: int = 1
    """BATCH_IMAGES: maximum images of several requests in one batch; 1: no batching across requests."""
    batch_delay_ms: int = 0
    """BATCH_DELAY_MS: how long a request may wait for others to join its batch; 0: only those already waiting join."""
    token_file: Optional[Path] = None
    """TOKEN_FILE: bearer tokens, one per line; clients need one of them to infer or read metrics."""
    tls_certificate: Optional[Path] = None
    """TLS_CERTIFICATE: PEM file of the server's certificate chain; with it, the server accepts only TLS."""
    tls_key: Optional[Path] = None
    """TLS_KEY: PEM file of its private key."""
    tls_client_ca: Optional[Path] = None
    """TLS_CLIENT_CA: PEM file of the CAs whose client certificates may infer and read metrics."""
    log_level: str = "info"
    """LOG_LEVEL: debug, info, warning or error."""


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read all settings; raise `SettingError`, which names the variable."""
    default = Settings()
    level = environment.get("LOG_LEVEL", default.log_level)
    if level.lower() not in ("debug", "info", "warning", "error"):
        raise SettingError(f"LOG_LEVEL is {level!r}; use debug, info, warning or error")
    body = _number(environment, "MAX_BODY_MIB", default.max_body_bytes // MEBIBYTE, 1, 4096)
    mebipixels = _number(environment, "MAX_IMAGE_MIPIXELS", default.max_image_pixels >> 20, 1, MAX_PIXELS >> 20)
    port = _number(environment, "PORT", default.port, 1, 65535)
    grpc_port = _number(environment, "GRPC_PORT", default.grpc_port, 0, 65535)
    if grpc_port == port:
        raise SettingError(f"GRPC_PORT and PORT are both {port}; use another one, or 0 for no gRPC")
    return Settings(
        port=port,
        grpc_port=grpc_port,
        host=environment.get("HOST", default.host),
        model_folder=Path(environment.get("MODEL_FOLDER", default.model_folder)),
        engine_cache=engine_cache(environment),
        measure_seconds=_number(environment, "MEASURE_SECONDS", default.measure_seconds, 0, 3600),
        max_batch=_number(environment, "MAX_BATCH", default.max_batch, 1, 4096),
        max_body_bytes=body * MEBIBYTE,
        max_image_pixels=mebipixels << 20,
        max_waiting=_number(environment, "MAX_WAITING", default.max_waiting, 1, 4096),
        max_held_bytes=_number(environment, "MAX_HELD_MIB", default.max_held_bytes // MEBIBYTE, 1, 4096) * MEBIBYTE,
        max_connections=_number(environment, "MAX_CONNECTIONS", default.max_connections, 1, 65536),
        head_seconds=_number(environment, "HEAD_SECONDS", default.head_seconds, 1, 3600),
        body_seconds=_number(environment, "BODY_SECONDS", default.body_seconds, 1, 3600),
        body_pace=_number(environment, "BODY_PACE", default.body_pace, 0, 1 << 24),
        request_seconds=_number(environment, "REQUEST_SECONDS", default.request_seconds, 1, 3600),
        idle_seconds=_number(environment, "IDLE_SECONDS", default.idle_seconds, 1, 3600),
        grace_seconds=_number(environment, "GRACE_SECONDS", default.grace_seconds, 0, 3600),
        instances=_number(environment, "INSTANCES", default.instances, 0, 256),
        batch_images=_number(environment, "BATCH_IMAGES", default.batch_images, 1, 4096),
        batch_delay_ms=_number(environment, "BATCH_DELAY_MS", default.batch_delay_ms, 0, 10_000),
        token_file=_path(environment, "TOKEN_FILE"),
        tls_certificate=_path(environment, "TLS_CERTIFICATE"),
        tls_key=_path(environment, "TLS_KEY"),
        tls_client_ca=_path(environment, "TLS_CLIENT_CA"),
        log_level=level.lower(),
    )


def engine_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """Return ENGINE_CACHE; raise `SettingError`."""
    return _path(environment, "ENGINE_CACHE") or Settings().engine_cache


def _path(environment: Mapping[str, str], name: str) -> Optional[Path]:
    text = environment.get(name)
    if text == "":
        raise SettingError(f"{name} is empty; set it to a path, or unset it")
    return None if text is None else Path(text)


def _number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environment.get(name, str(default))
    # int() accepts more, e.g. 8_000, which the health check does not.
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and least <= int(text) <= most):
        raise SettingError(f"{name} is {text!r}; use a whole number from {least} to {most}")
    return int(text)
