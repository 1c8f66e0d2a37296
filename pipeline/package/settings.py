"""What an image is besides its models."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from targets.target import Target


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    name: str
    version: str
    target: Target
    base_image: str | None = None
    """None: the target's own."""
    grpc: bool = False
    """Whether the server speaks gRPC, too."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Added as they are."""

    @property
    def tag(self) -> str:
        return f"{self.name}:{self.version}-{self.target.name}"
