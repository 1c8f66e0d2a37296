"""What a container's environment may set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

from targets.device.preprocess import MAX_PIXELS

MEBIBYTE = 1 << 20


class SettingError(ValueError):
    """An environment variable has a value that cannot be used."""


@dataclass(frozen=True)
class Settings:
    """Read from the environment; every one has a default."""

    port: int = 8000
    """PORT"""
    host: str = "0.0.0.0"
    """HOST: the address to listen on."""
    model_folder: Path = Path("/opt/edge-deploy/model")
    """MODEL_FOLDER"""
    max_batch: int = 64
    """MAX_BATCH: images of one request."""
    max_body_bytes: int = 64 * MEBIBYTE
    """MAX_BODY_MIB: mebibytes of one request's body."""
    max_image_pixels: int = MAX_PIXELS
    """MAX_IMAGE_MIPIXELS, in units of 2**20: width times height of the largest encoded image that is decoded."""
    max_waiting: int = 16
    """MAX_WAITING: requests held at a time, waiting or being answered; bounds the memory together with the body's."""
    body_seconds: int = 60
    """BODY_SECONDS: how long a request's body may take to arrive."""
    log_level: str = "info"
    """LOG_LEVEL: debug, info, warning or error."""


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Raises `SettingError` that names the variable."""
    default = Settings()
    level = environment.get("LOG_LEVEL", default.log_level)
    if level.lower() not in ("debug", "info", "warning", "error"):
        raise SettingError(f"LOG_LEVEL is {level!r}; use debug, info, warning or error")
    body = _number(environment, "MAX_BODY_MIB", default.max_body_bytes // MEBIBYTE, 1, 4096)
    mebipixels = _number(environment, "MAX_IMAGE_MIPIXELS", default.max_image_pixels >> 20, 1, MAX_PIXELS >> 20)
    return Settings(
        port=_number(environment, "PORT", default.port, 1, 65535),
        host=environment.get("HOST", default.host),
        model_folder=Path(environment.get("MODEL_FOLDER", default.model_folder)),
        max_batch=_number(environment, "MAX_BATCH", default.max_batch, 1, 4096),
        max_body_bytes=body * MEBIBYTE,
        max_image_pixels=mebipixels << 20,
        max_waiting=_number(environment, "MAX_WAITING", default.max_waiting, 1, 4096),
        body_seconds=_number(environment, "BODY_SECONDS", default.body_seconds, 1, 3600),
        log_level=level.lower(),
    )


def _number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environment.get(name, str(default))
    # int() would take more, such as 8_000, which the health check does not.
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and least <= int(text) <= most):
        raise SettingError(f"{name} is {text!r}; use a whole number from {least} to {most}")
    return int(text)
