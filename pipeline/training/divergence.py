"""How far a network's answers are from another's: what top-1 cannot tell on few images, this does."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax


def divergence(logits: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Mean KL divergence of softmax(logits) from softmax(wanted), both [N, C], in nats; inf where not finite."""
    if not np.isfinite(logits).all():
        return float("inf")
    of_wanted = log_softmax(wanted.astype(np.float64), axis=1)
    of_logits = log_softmax(logits.astype(np.float64), axis=1)
    return float((np.exp(of_wanted) * (of_wanted - of_logits)).sum(axis=1).mean())
