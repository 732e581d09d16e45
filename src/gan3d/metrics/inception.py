"""Inception score (Salimans et al. 2016): high if each fake is recognizable and all classes occur.

IS = exp( E_x[ KL( p(y | x) || p(y) ) ] )
"""

from __future__ import annotations

import torch
from torch import Tensor

from gan3d.metrics.exact import exact


def inception_score(probabilities: Tensor, num_splits: int = 10) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of the scores of consecutive splits.

    Args:
        probabilities: class probabilities of the images, [n c].
        num_splits: number of splits; p(y) is computed within a split.

    Returns:
        (mean, standard deviation), float64 scalars.

    Raises:
        ValueError: the shape is wrong, or there are fewer images than splits.
    """
    n = len(probabilities)
    if probabilities.ndim != 2 or n < num_splits:
        raise ValueError(
            f"probabilities of shape {list(probabilities.shape)} for {num_splits} splits; expected "
            "[n c] with n at least the number of splits"
        )
    scores = []
    for i in range(num_splits):
        p = exact(probabilities[i * n // num_splits : (i + 1) * n // num_splits])
        # xlogy: x log x is 0 at 0
        divergence = (torch.xlogy(p, p) - torch.xlogy(p, p.mean(dim=0, keepdim=True))).sum(dim=1)
        scores.append(divergence.mean().exp())
    stacked = torch.stack(scores)
    return stacked.mean(), stacked.std(correction=0)
