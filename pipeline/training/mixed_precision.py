"""Mixed precision for training: convolutions and matrix products in bfloat16 if it is faster on this CPU.

bfloat16 has the range of float32, so no loss scaling is needed; weights, their updates, normalization's statistics
and the loss stay float32 (Kalamkar et al. 2019, https://arxiv.org/abs/1905.12322).
"""

from contextlib import AbstractContextManager

import torch

FASTER = ("avx512_bf16", "amx_bf16", "sve_bf16")
"""CPU features that multiply bfloat16. Without one it is emulated, and slower than float32."""


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(unit) is True for unit in FASTER)


def autocast(*, enabled: bool) -> AbstractContextManager[None]:
    """Compute convolutions and matrix products in bfloat16; without `enabled` in the inputs' type."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)
