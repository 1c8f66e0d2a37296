"""Settings that the result of stage `compile` depends on besides models and data."""

from dataclasses import dataclass

from targets.target import Target


@dataclass(frozen=True, kw_only=True)
class CompileSettings:
    target: Target
    name: str
    """The model's name on its server."""
    version: str
    weight_bits: int
    """Of int8 weights."""
    threads: int
    tensorrt: str
    """The version in the target's image, such as "10.3.0"; unused for a CPU."""
    dla: bool = False
    """An engine for the deep learning accelerator."""
