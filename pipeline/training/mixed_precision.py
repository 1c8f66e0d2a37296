"""Mixed precision for training: convolutions and products in bfloat16 where this CPU multiplies it faster.

bfloat16 has the range of float32, so that no loss has to be scaled; weights, their updates, normalization's statistics
and the loss stay float32 (Kalamkar et al. 2019, https://arxiv.org/abs/1905.12322).
"""

from contextlib import AbstractContextManager

import torch

FASTER = ("avx512_bf16", "amx_bf16", "sve_bf16")
"""Units that multiply bfloat16. Where there is none it is emulated, and slower than float32."""


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(unit) is True for unit in FASTER)


def autocast(*, enabled: bool) -> AbstractContextManager[None]:
    """In its context convolutions and products compute in bfloat16; without `enabled` in what they are given."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)
