"""The known base images: `docker/images.toml`, read without contacting a Docker engine."""

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
    """Version of TensorRT in the image, as many parts as are known; empty without TensorRT."""


def known_bases() -> dict[str, BaseImage]:
    """Return the entries of `docker/images.toml` by key."""
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


def look_up_base(target: Target, base_image: str | None) -> BaseImage | None:
    """Return the entry of the target's base image; None for an image that `images.toml` does not list."""
    known = known_bases()
    if base_image is not None:
        return next(
            (base for base in known.values() if (base.tag, base.platform) == (base_image, target.platform)), None
        )
    if target.base_image not in known:
        raise TargetError(
            f"the target {target.name} names the base image {target.base_image!r}, which docker/images.toml does not "
            f"define. Known: {', '.join(known)}."
        )
    return known[target.base_image]


def tensorrt_for(target: Target, base_image: str | None) -> str:
    """Return the version of TensorRT in the target's image, as many parts as are known; empty for a CPU.

    An image that `images.toml` does not list is assumed to have the version that the target states.
    """
    if target.gpu is None:
        return ""
    base = look_up_base(target, base_image)
    return target.gpu.tensorrt if base is None or not base.tensorrt else base.tensorrt
