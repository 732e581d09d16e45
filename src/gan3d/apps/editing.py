"""Directions in the latent space of any generator, and what they do to a scene.

    pca1, pca2, ..      principal components of mapped latents (GANSpace, Harkonen et al. 2020, 3.1)
    sefa1, sefa2, ..    what moves the styles of all layers most: eigenvectors of A^T A, A the
                        affine maps from w to styles (SeFa, Shen and Zhou 2021, equation 7)
    a name              where a quantity of the scenes grows, by linear regression

A step of 1 is one standard deviation of the mapped latents along the direction. The camera stays
where it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gan3d.apps.inversion import Components, components
from gan3d.apps.views import evaluating
from gan3d.camera import Camera
from gan3d.generators import Generator
from gan3d.randomness import Randomness

MAPPED = 1024  # latents whose components are taken
RIDGE = 0.1  # of the regression, per scene


@dataclass(frozen=True)
class MappedLatents:
    """Mapped latents of many z, and their principal components.

    Attributes:
        ws: [m n w].
        parts: of all latents of a scene together.
    """

    ws: Tensor
    parts: Components


def mapped_latents(
    generator: Generator, condition: Camera | None = None, *, seed: int = 0, num: int = MAPPED
) -> MappedLatents:
    """MappedLatents of z ~ N(0, I).

    Args:
        generator: any generator that is not pinned.
        condition: one camera for `map`; None for generators that are not conditioned.
        seed: of the draws.
        num: m.
    """
    like = next(generator.parameters())
    z = Randomness(seed, range(num)).normal("z", generator.z_dim).to(like)
    cameras = None if condition is None else condition.select([0] * num)
    with evaluating(generator):
        ws = generator.map(z, cameras)
    return MappedLatents(ws, components(ws))


def principal_direction(latents: MappedLatents, k: int) -> Tensor:
    """Component k, from 1 on, as a step [1 n w].

    Raises:
        ValueError: there are fewer components.
    """
    spread = latents.parts.spread[0]
    there = int((spread > 0).sum())
    if not 1 <= k <= there:
        raise ValueError(f"pca{k} is not there; the latents have components pca1 to pca{there}")
    chosen = torch.zeros_like(latents.parts.spread)
    chosen[0, k - 1] = 1
    return latents.parts.moves(chosen)


def style_direction(generator: Generator, latents: MappedLatents, k: int) -> Tensor:
    """SeFa's direction k, from 1 on, as a step [1 n w] of all latents that are one w.

    Raises:
        ValueError: the generator has no affine maps from w to styles, or k is too large.
    """
    ending = generator.style_affine
    weights = [
        weight.detach()
        for name, weight in generator.named_parameters()
        if ending and name.endswith(ending) and weight.shape[-1] == generator.w_dim
    ]
    kind = type(generator).__name__
    if not weights:
        raise ValueError(
            f"{kind} has no affine maps from w to styles, from which SeFa takes its directions; "
            "use pca1, pca2, .. or the name of an attribute"
        )
    if not 1 <= k <= generator.w_dim:
        raise ValueError(f"sefa{k} is not there; {kind} has sefa1 to sefa{generator.w_dim}")
    _, _, rows = torch.linalg.svd(torch.cat(weights), full_matrices=True)
    direction = rows[k - 1]
    tied = (latents.ws == latents.ws[:, -1:]).all(dim=2).all(dim=0)  # n
    spread = (latents.ws[:, -1] @ direction).std()
    return (tied[:, None] * direction * spread)[None]


def regressed_direction(latents: MappedLatents, ws: Tensor, values: Tensor) -> tuple[Tensor, float]:
    """The direction in which a quantity of the scenes grows most, as a step [1 n w].

    Ridge regression on the coordinates along the principal components, which have unit variance:
    its gradient, scaled to length 1.

    Args:
        latents: that the components are of.
        ws: of the scenes whose quantity is known, [m n w].
        values: the quantity, [m].

    Returns:
        the step, and R^2 of the regression, by scenes left out one by one (PRESS): at most 0 is no
        better than the mean.

    Raises:
        ValueError: the quantity is the same in all scenes.
    """
    spread = values.std()
    if not spread > 0:
        raise ValueError("the quantity is the same in all scenes, so that nothing follows from it")
    y = ((values - values.mean()) / spread).double()
    kept = latents.parts.spread[0] > 0
    x = torch.cat([latents.parts.coordinates(w[None]) for w in ws])[:, kept].double()
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    penalty = RIDGE * len(y) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    penalty[-1, -1] = 0  # of the mean
    solve = torch.linalg.solve(x.T @ x + penalty, x.T)  # c m
    slopes = solve @ y
    left_out = (y - x @ slopes) / (1 - (x * solve.T).sum(dim=1)).clamp_min(1e-6)
    r2 = 1 - float(left_out.square().mean() / y.square().mean())
    chosen = torch.zeros_like(latents.parts.spread)
    chosen[0, kept] = (slopes[:-1] / slopes[:-1].norm()).to(chosen)
    return latents.parts.moves(chosen), r2
