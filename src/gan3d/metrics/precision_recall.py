"""Precision and recall of a set of fakes (Kynkaanniemi et al. 2019).

    precision = fraction of fakes in the manifold of the reals
    recall    = fraction of reals in the manifold of the fakes

The manifold of a set is the union of balls around its features; the radius of a ball is the
distance to the k-th nearest other feature of the set.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gan3d.metrics.exact import check_finite, exact

BLOCK = 10_000  # rows and columns of a matrix of distances held at once


def precision_and_recall(
    real: Tensor, fake: Tensor, *, neighbors: int = 3, half: bool = True
) -> tuple[Tensor, Tensor]:
    """Precision and recall.

    Args:
        real: features [n c].
        fake: features [m c].
        neighbors: k; StyleGAN3's protocol `pr50k3_full` uses 3, with VGG16 features.
        half: round the features to float16 first, as in the protocol. Features beyond its range
            (65,504) are first divided by a power of two, which changes no fraction.

    Returns:
        (precision, recall), float64 scalars.

    Raises:
        ValueError: the shapes do not match, or a set has too few features.
        ArithmeticError: a feature is not finite.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"features have shapes {list(real.shape)} and {list(fake.shape)}, expected [n c] and "
            "[m c]"
        )
    for features, what in ((real, "real images"), (fake, "fakes")):
        check_finite(features, what)
    if half:
        real, fake = rounded(real, fake)
    real, fake = real.float(), fake.float()
    return covered(real, fake, neighbors), covered(fake, real, neighbors)


def rounded(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Features rounded to float16, those beyond its range divided by one power of two."""
    largest = max(float(features.abs().max()) for features in (real, fake))
    scale = 2.0 ** -max(math.ceil(math.log2(max(largest, 1) / torch.finfo(torch.half).max)), 0)
    return (real.float() * scale).half(), (fake.float() * scale).half()


def covered(manifold: Tensor, probes: Tensor, neighbors: int = 3) -> Tensor:
    """Fraction of the probes [m c] inside a ball of the manifold [n c] (closed balls), float64."""
    return exact(inside(manifold, probes, neighbors)).mean()


def inside(manifold: Tensor, probes: Tensor, neighbors: int = 3) -> Tensor:
    """Whether each probe [m c] lies in a ball of the manifold [n c] (closed balls), bool [m]."""
    radii = neighbor_distances(manifold, neighbors)
    hits = []
    for block in probes.split(BLOCK):
        hit = torch.zeros(len(block), dtype=torch.bool, device=block.device)
        for centers, radius in zip(manifold.split(BLOCK), radii.split(BLOCK)):
            hit |= (torch.cdist(block, centers) <= radius).any(dim=1)
        hits.append(hit)
    return torch.cat(hits)


def neighbor_distances(features: Tensor, neighbors: int) -> Tensor:
    """Distance [n] of each feature [n c] to its k-th nearest other feature."""
    if len(features) <= neighbors:
        raise ValueError(
            f"{len(features)} features have no {neighbors} neighbors each; use more images"
        )
    radii = []
    for block in features.split(BLOCK):
        # the k + 1 smallest distances so far: a feature is its own nearest neighbor
        nearest = block.new_empty(len(block), 0)
        for others in features.split(BLOCK):
            nearest = torch.cat([nearest, torch.cdist(block, others)], dim=1)
            kept = min(neighbors + 1, nearest.shape[1])
            nearest = nearest.topk(kept, dim=1, largest=False).values
        radii.append(nearest.amax(dim=1))
    return torch.cat(radii)
