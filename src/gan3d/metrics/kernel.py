"""Kernel distance between two sets of features; with Inception features, the KID.

Binkowski et al. 2018. For m features x_i and y_i each,

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
    k(x, y) = (<x, y> / d + 1)^3,   d the number of features

Unlike the Frechet distance it is unbiased for any number of images, and it may be negative.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gan3d.metrics.exact import check_finite, exact


def kernel_distance(
    real: Tensor,
    fake: Tensor,
    *,
    num_subsets: int = 100,
    max_subset_size: int = 1000,
    seed: int = 909,
) -> Tensor:
    """MMD^2, averaged over random subsets.

    The defaults are StyleGAN3's protocol `kid50k_full`.

    Args:
        real: features [n c].
        fake: features [m c].
        num_subsets: number of subsets.
        max_subset_size: images of each set in a subset; fewer if a set is smaller.
        seed: seed of numpy's RandomState, which draws the fakes and then the reals of a subset,
            without replacement.

    Returns:
        A float64 scalar.

    Raises:
        ValueError: the shapes do not match, or a set has fewer than two features.
        ArithmeticError: a feature is not finite.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"features have shapes {list(real.shape)} and {list(fake.shape)}, expected [n c] and "
            "[m c]"
        )
    size = min(len(real), len(fake), max_subset_size)
    if size < 2:
        raise ValueError(
            f"{len(real)} real and {len(fake)} fake features, subsets of {size}; use 2 of each or "
            "more"
        )

    for features, what in ((real, "real images"), (fake, "fakes")):
        check_finite(features, what)
    real, fake = real.float(), fake.float()
    draws = np.random.RandomState(seed)
    total = exact(torch.zeros((), device=real.device))
    for _ in range(num_subsets):
        x = fake[torch.from_numpy(draws.choice(len(fake), size, replace=False)).to(fake.device)]
        y = real[torch.from_numpy(draws.choice(len(real), size, replace=False)).to(real.device)]
        total += squared_mmd(x, y)
    return total / num_subsets


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased MMD^2 of two sets of equal size [m c], a float64 scalar."""
    m = len(x)
    within = polynomial_kernel(x, x) + polynomial_kernel(y, y)
    return (within.sum() - within.diagonal().sum()) / (m * (m - 1)) - 2 * polynomial_kernel(
        x, y
    ).mean()


def polynomial_kernel(x: Tensor, y: Tensor) -> Tensor:
    """k(x_i, y_j) of features [n c] and [m c], float64 [n m]."""
    return exact(x @ y.mT / x.shape[1] + 1) ** 3
