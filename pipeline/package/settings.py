"""Settings of an image besides its models."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.artifacts import Fallback
from targets.target import Target


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    name: str
    version: str
    target: Target
    base_image: str | None = None
    """None: the target's own."""
    grpc: bool = False
    """Whether the server also serves gRPC."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Added unchanged."""

    @property
    def tag(self) -> str:
        return f"{self.name}:{self.version}-{self.target.name}"


@dataclass(frozen=True, kw_only=True)
class DeferredSettings:
    """For an image whose engine is built and proven where it is started."""

    name: str
    version: str
    target: Target
    base_image: str | None
    grpc: bool
    undecided: Literal["stop", "package"]
    shard_images: int | None
    """Number of the gate's images in the image; None: all."""
    fallback: Fallback

    @property
    def tag(self) -> str:
        return f"{self.name}:{self.version}-{self.target.name}"
