"""Settings that the result of stage `quantize` depends on besides networks and data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class QuantizeSettings:
    qat_epochs: int
    """Epochs of quantization-aware training; 0: ranges and weights are only measured."""
    weight_bits: Literal[7, 8]
    keep_float: tuple[str, ...] = ()
    """Names of layers."""
    seed: int = 0
