"""The base images that are known: `docker/images.toml`, read without asking any engine."""

import tomllib
from dataclasses import dataclass

from pipeline.errors import TargetError
from targets.shipped import shipped
from targets.target import Target


@dataclass(frozen=True, kw_only=True)
class BaseImage:
    tag: str
    platform: str
    python: str
    """Major and minor, e.g. `3.12`."""
    tensorrt: str = ""
    """Version of the TensorRT in it, as far as it is known; empty where there is none."""


def known_bases() -> dict[str, BaseImage]:
    """The entries of `docker/images.toml` by key."""
    raw = tomllib.loads(shipped("images.toml").read_text())
    return {
        key: BaseImage(
            tag=value["tag"],
            platform=value["platform"],
            python=value["python"],
            tensorrt=value.get("tensorrt", ""),
        )
        for key, value in raw.items()
    }


def stated_base(target: Target, base_image: str | None) -> BaseImage | None:
    """What is known of the base without asking it; None for an image that only the user knows."""
    known = known_bases()
    if base_image is not None:
        return next(
            (base for base in known.values() if (base.tag, base.platform) == (base_image, target.platform)), None
        )
    if target.base_image not in known:
        raise TargetError(
            f"the target {target.name} names the base image {target.base_image!r}; docker/images.toml has "
            f"{', '.join(known)}."
        )
    return known[target.base_image]


def tensorrt_for(target: Target, base_image: str | None) -> str:
    """The TensorRT in the target's image, as many parts as are known; empty for a CPU.

    In an image that only the user knows, the target's own is taken to be.
    """
    if target.gpu is None:
        return ""
    base = stated_base(target, base_image)
    return target.gpu.tensorrt if base is None or not base.tensorrt else base.tensorrt
