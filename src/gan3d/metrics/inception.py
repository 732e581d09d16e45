"""Inception score (Salimans et al. 2016): fakes are recognisable one by one, and all kinds occur.

IS = exp( E_x[ KL( p(y | x) || p(y) ) ] )
"""

from __future__ import annotations

import torch
from torch import Tensor


def inception_score(probabilities: Tensor, num_splits: int = 10) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of the scores of consecutive splits.

    Args:
        probabilities: of the classes of each image, [n c].
        num_splits: the images are split into; p(y) is that of the split.

    Returns:
        (mean, deviation), float64 scalars.
    """
    n = len(probabilities)
    if probabilities.ndim != 2 or n < num_splits:
        raise ValueError(
            f"probabilities of shape {list(probabilities.shape)} for {num_splits} splits; expected "
            "[n c]"
        )
    scores = []
    for i in range(num_splits):
        p = probabilities[i * n // num_splits : (i + 1) * n // num_splits].double()
        # x log x is 0 at 0
        divergence = (torch.xlogy(p, p) - torch.xlogy(p, p.mean(dim=0, keepdim=True))).sum(dim=1)
        scores.append(divergence.mean().exp())
    every = torch.stack(scores)
    return every.mean(), every.std(correction=0)
