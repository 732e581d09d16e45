"""Precision and recall of a set of fakes (Kynkaanniemi et al. 2019): what share is real, what share
of the real it has.

A set's manifold is the union of balls around its features, each reaching to the k-th nearest other
feature of the set.

    precision = share of fakes in the manifold of the reals,   recall = share of reals in the manifold of the fakes
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 10_000  # rows and columns of a matrix of distances held at once


def precision_and_recall(
    real: Tensor, fake: Tensor, *, neighbors: int = 3, half: bool = True
) -> tuple[Tensor, Tensor]:
    """Precision and recall.

    Args:
        real: features [n c].
        fake: features [m c].
        neighbors: k; the protocol of StyleGAN3 (`pr50k3_full`) has 3, and VGG16 features.
        half: round the features to float16 first, as the protocol does.

    Returns:
        (precision, recall), float64 scalars.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"features have shapes {list(real.shape)} and {list(fake.shape)}, expected [n c] and "
            "[m c]"
        )
    real, fake = ((features.half() if half else features).float() for features in (real, fake))
    return covered(real, fake, neighbors), covered(fake, real, neighbors)


def covered(manifold: Tensor, probes: Tensor, neighbors: int = 3) -> Tensor:
    """Share of the probes [m c] that lie in a ball of the manifold [n c], border included; a
    float64 scalar.
    """
    radii = neighbor_distances(manifold, neighbors)
    hits = []
    for some in probes.split(BLOCK):
        inside = torch.zeros(len(some), dtype=torch.bool, device=some.device)
        for centers, reach in zip(manifold.split(BLOCK), radii.split(BLOCK)):
            inside |= (torch.cdist(some, centers) <= reach).any(dim=1)
        hits.append(inside)
    return torch.cat(hits).double().mean()


def neighbor_distances(features: Tensor, neighbors: int) -> Tensor:
    """Distance of every feature [n c] to its k-th nearest other, [n]: the (k + 1)-th smallest,
    itself included.
    """
    if len(features) <= neighbors:
        raise ValueError(
            f"{len(features)} features have no {neighbors} neighbors each; use more images"
        )
    radii = []
    for some in features.split(BLOCK):
        nearest = some.new_empty(len(some), 0)
        for others in features.split(BLOCK):
            nearest = torch.cat([nearest, torch.cdist(some, others)], dim=1)
            nearest = nearest.topk(
                min(neighbors + 1, nearest.shape[1]), dim=1, largest=False
            ).values
        radii.append(nearest.amax(dim=1))
    return torch.cat(radii)
