"""Clipped weights: the scale per channel with the least mean squared error."""

import torch
from torch import Tensor

LEAST = 0.4
CANDIDATES = 61


def best_shares(weight: Tensor, limit: int) -> Tensor:
    """Return the fraction [C] of each channel's largest magnitude to clip at, for integers of -limit..limit."""
    flat = weight.detach().flatten(1)
    largest = flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    shares = torch.linspace(LEAST, 1.0, CANDIDATES)
    errors = []
    for share in shares.tolist():
        scale = largest * share / limit
        errors.append(((flat / scale).round().clamp(-limit, limit) * scale - flat).square().sum(1))
    return shares[torch.stack(errors).argmin(0)]
