"""Volume rendering along rays by the left-point rule of pi-GAN and CIPS-3D (NeRF eq. 3).

Samples s of a ray lie at distances d_s in increasing order, with raw densities sigma_s and colors
c_s. Each represents the interval behind it; that behind the last one has length 1e10.

    alpha_s = 1 - exp(-act(sigma_s) (d_{s+1} - d_s))
    w_s = alpha_s prod_{j<s} (1 - alpha_j + 1e-10)
    C = sum_s w_s c_s,   D = sum_s w_s d_s,   W = sum_s w_s

Only scalars are sorted: weights are scattered back to their blocks, and colors never move. On a GPU
one kernel reads every color once, forward, and once more backward (`ops.triton.left_point`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.ops.backend import Backend, choose
from gan3d.ops.composite import Samples, alpha_weights, left_alphas

Clamp = Literal["relu", "softplus"]


class LeftComposite(NamedTuple):
    """Values of rays after compositing.

    Attributes:
        rgb: C, [.. c].
        depth: D, not divided by W, [..].
        opacity: W before `last_back`, [..].
        depths: of all samples in increasing order, [.. s].
        weights: w_s of these samples, [.. s].
    """

    rgb: Tensor
    depth: Tensor
    opacity: Tensor
    depths: Tensor
    weights: Tensor


def composite_left(
    *blocks: Samples,
    noise: Tensor | None = None,
    clamp: Clamp = "relu",
    last_back: bool = False,
    backend: Backend | None = None,
) -> LeftComposite:
    """The left-point rule over the union of blocks; differentiable any number of times.

    Args:
        blocks: samples, in any order; at equal depths the samples of earlier blocks come first.
        noise: added to sigma *in order of depth*, [.. s].
        clamp: act.
        last_back: whether the last sample receives all remaining light, 1 - W.
        backend: see `ops.backend`; None chooses. "reference" and "fast" are the same here, and the
            kernel takes one or two blocks.

    Raises:
        ValueError: the backend does not run here.
    """
    depths, order = torch.cat([block.depths for block in blocks], -1).sort(dim=-1, stable=True)
    sigma = torch.cat([block.sigma for block in blocks], -1).gather(-1, order)
    sigma = sigma if noise is None else sigma + noise
    if choose(backend, blocks[0].rgb) == "triton" and len(blocks) <= 2:
        from gan3d.ops.triton.left_point import composite_left_sorted

        colors = [block.rgb.flatten(0, -3) for block in blocks]
        second = colors[1] if len(blocks) == 2 else None
        scalars = [x.flatten(0, -2) for x in (depths, sigma, order)]
        found = composite_left_sorted(*scalars, colors[0], second, clamp == "softplus", last_back)
        rgb, depth, opacity, weights = (x.unflatten(0, depths.shape[:-1]) for x in found)
        return LeftComposite(rgb, depth, opacity, depths, weights)

    weights, opacity = _weights(depths, sigma, clamp == "softplus", last_back)
    # Colors in order of the blocks.
    unsorted = torch.zeros_like(weights).scatter(-1, order, weights)
    parts = unsorted.split([block.depths.shape[-1] for block in blocks], -1)
    rgb = _contract(parts[0], blocks[0].rgb)
    for part, block in zip(parts[1:], blocks[1:]):
        rgb = rgb + _contract(part, block.rgb)
    return LeftComposite(rgb, (weights * depths).sum(-1), opacity, depths, weights)


def left_point_weights(sigma: Tensor, depths: Tensor, clamp: Clamp = "relu") -> Tensor:
    """w_s of raw densities.

    Args:
        sigma: raw densities of the field, [.. s].
        depths: in increasing order, [.. s].
        clamp: act.

    Returns:
        [.. s].
    """
    density = F.relu(sigma) if clamp == "relu" else F.softplus(sigma)
    return alpha_weights(left_alphas(density, depths))


def left_form(
    depths: Tensor,
    sigma: Tensor,
    order: Tensor,
    first: Tensor,
    second: Tensor | None,
    softplus: bool,
    last_back: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the kernel computes, in torch, for its derivatives of higher order."""
    weights, opacity = _weights(depths, sigma, softplus, last_back)
    rgb = first if second is None else torch.cat([first, second], -2)
    rgb = rgb.gather(-2, order[..., None].expand_as(rgb))
    return _contract(weights, rgb), (weights * depths).sum(-1), opacity, weights


def _weights(
    depths: Tensor, sigma: Tensor, softplus: bool, last_back: bool
) -> tuple[Tensor, Tensor]:
    """w_s and W of sorted samples."""
    weights = left_point_weights(sigma, depths, "softplus" if softplus else "relu")
    opacity = weights.sum(-1)
    if last_back:
        rest = weights[..., -1:] + 1 - opacity[..., None]
        weights = torch.cat([weights[..., :-1], rest], -1)
    return weights, opacity


def _contract(weights: Tensor, rgb: Tensor) -> Tensor:
    """sum_s w_s c_s: [.. s], [.. s c] -> [.. c]."""
    return (weights[..., None, :] @ rgb).squeeze(-2)
