"""Volume rendering along rays by the mid-point rule: weights, color, depth and opacity.

Samples s = 0..S-1 of a ray lie at distances d_s with raw densities sigma_s and colors c_s. For the
interval i between samples i and i+1

    tau_i = softplus((sigma_i + sigma_{i+1}) / 2 - 1) (d_{i+1} - d_i)      (Mip-NeRF's softplus)
    w_i   = T_i (1 - exp(-tau_i)),   T_i = exp(-(tau_0 + .. + tau_{i-1}))  (NeRF eq. 3; Max 1995)

    C = sum_i w_i (c_i + c_{i+1}) / 2
    W = sum_i w_i
    D = sum_i w_i (d_i + d_{i+1}) / (2 W)

`reference` is these lines, in the published order of operations. `composite` gives the same numbers
without an [S-1, c] tensor: the weight of sample s is v_s = (w_{s-1} + w_s) / 2, so that
C = sum_s v_s c_s. It accepts its samples in several blocks of any order: it sorts the scalars d and
sigma only and scatters the weights back to the blocks, so that colors are never moved. On a GPU one
kernel reads every color once, forward, and once more backward (`ops.triton.composite`).

`alpha_weights` and `left_alphas` are the left-point rule of pi-GAN, GRAM and CIPS-3D:
w_i = alpha_i T_i, C = sum_i w_i c_i. `composite_alphas` is this rule for surfaces in any order
(GRAM); on a GPU it is one kernel, which sorts nothing (`ops.triton.alphas`).

Convention: depths are distances along unit rays; shapes are [.. s], colors [.. s c], with any
leading dimensions. All functions are differentiable any number of times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.ops.backend import Backend, choose

MOST_SURFACES = 64  # of the kernel


class Samples(NamedTuple):
    """Values of a field at samples along rays.

    Attributes:
        depths: distance along the ray, [.. s].
        sigma: raw density (before the activation), [.. s].
        rgb: colors or features, [.. s c].
    """

    depths: Tensor
    sigma: Tensor
    rgb: Tensor


class Composite(NamedTuple):
    """Values of rays after compositing.

    Attributes:
        rgb: C, [.. c].
        depth: expected distance D, [..]; on an empty ray (W = 0) the distance of its last sample.
        opacity: W in [0, 1], [..].
    """

    rgb: Tensor
    depth: Tensor
    opacity: Tensor


class CompositedSurfaces(NamedTuple):
    """Values of rays after compositing of surfaces.

    Attributes:
        rgb: sum_i w_i c_i, [.. c].
        depth: sum_i w_i d_i, not divided by the opacity, [..].
        opacity: sum_i w_i, [..].
        weights: w_i in the order of the surfaces, [.. k].
    """

    rgb: Tensor
    depth: Tensor
    opacity: Tensor
    weights: Tensor


def composite(
    *blocks: Samples, background: float | None = None, backend: Backend | None = None
) -> Composite:
    """Mid-point rule over the union of blocks of samples, C = sum_s v_s c_s.

    Args:
        blocks: samples; a single block must be sorted by depth, several blocks need not be.
        background: color behind everything, added (1 - W) times; None is black (0).
        backend: see `ops.backend`; None chooses. The kernel takes one or two blocks.

    Returns:
        rgb [.. c], depth [..], opacity [..].

    Raises:
        ValueError: the backend does not run here.
    """
    depths = torch.cat([block.depths for block in blocks], -1)
    sigma = torch.cat([block.sigma for block in blocks], -1)
    backend = choose(backend, blocks[0].rgb)
    if backend == "reference":
        return reference(_united(depths, sigma, blocks), background)
    if backend == "triton" and len(blocks) <= 2:
        return _by_kernel(depths, sigma, blocks, background or 0.0)
    weights_of = _sample_weights if len(blocks) == 1 else _unordered_weights
    weights = weights_of(sigma, depths)
    opacity = weights.sum(-1)
    depth = _expected_depth((weights * depths).sum(-1), opacity, depths)

    # Colors stay in their blocks.
    parts = weights.split([block.depths.shape[-1] for block in blocks], -1)
    rgb = _contract(parts[0], blocks[0].rgb)
    for part, block in zip(parts[1:], blocks[1:]):
        rgb = rgb + _contract(part, block.rgb)
    if background is not None:
        rgb = rgb + background * (1 - opacity)[..., None]
    return Composite(rgb, depth, opacity)


def reference(samples: Samples, background: float | None = None) -> Composite:
    """The equations as they stand: mid-point colors; T is a product with the published 1e-10."""
    depths, sigma, rgb = samples
    rgb_mid = (rgb[..., :-1, :] + rgb[..., 1:, :]) / 2
    depths_mid = (depths[..., :-1] + depths[..., 1:]) / 2
    alpha = 1 - torch.exp(-optical_depths(sigma, depths))
    through = torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha + 1e-10], -1)
    weights = alpha * torch.cumprod(through, -1)[..., :-1]
    opacity = weights.sum(-1)
    depth = _expected_depth((weights * depths_mid).sum(-1), opacity, depths)
    color = (weights[..., None] * rgb_mid).sum(-2)
    if background is not None:
        color = color + background * (1 - opacity)[..., None]
    return Composite(color, depth, opacity)


def optical_depths(sigma: Tensor, depths: Tensor) -> Tensor:
    """tau_i = softplus((sigma_i + sigma_{i+1}) / 2 - 1) (d_{i+1} - d_i), [.. s-1].

    Args:
        sigma: raw densities, [.. s].
        depths: in increasing order, [.. s].
    """
    sigma_mid = (sigma[..., :-1] + sigma[..., 1:]) / 2
    return F.softplus(sigma_mid - 1) * (depths[..., 1:] - depths[..., :-1])


def interval_weights(tau: Tensor) -> Tensor:
    """w_i = T_i (1 - exp(-tau_i)), the fraction of light absorbed in interval i, [.. i]."""
    before = F.pad(tau.cumsum(-1)[..., :-1], (1, 0))
    return torch.exp(-before) * (1 - torch.exp(-tau))


def alpha_weights(alpha: Tensor) -> Tensor:
    """Left-point weights w_i = alpha_i T_i, T_i = prod_{j<i} (1 - alpha_j + 1e-10).

    The rule of pi-GAN, GRAM and CIPS-3D (NeRF eq. 3): each sample represents the interval behind
    it.

    Args:
        alpha: opacity of each sample, in order of depth, [.. s].

    Returns:
        [.. s].
    """
    passed = F.pad((1 - alpha + 1e-10)[..., :-1].cumprod(-1), (1, 0), value=1.0)
    return alpha * passed


def composite_alphas(
    alpha: Tensor,
    rgb: Tensor,
    distances: Tensor,
    *,
    last_back: bool = False,
    backend: Backend | None = None,
) -> CompositedSurfaces:
    """w_i = alpha_i prod_{j nearer than i} (1 - alpha_j + 1e-10) (GRAM eq. 4), and sums.

    Args:
        alpha: opacities of surfaces in any order, [.. k].
        rgb: their colors or other values, [.. k c].
        distances: define the order (without gradient; of equal ones, the first is nearer) and the
            depth, [.. k].
        last_back: whether to add 1 - sum_i w_i to the weight of the farthest surface.
        backend: see `ops.backend`; None chooses. "reference" and "fast" are the same here, and the
            kernel takes at most 64 surfaces.

    Returns:
        rgb [.. c], depth and opacity [..], weights [.. k].

    Raises:
        ValueError: the backend does not run here.
    """
    if choose(backend, alpha) == "triton" and alpha.shape[-1] <= MOST_SURFACES:
        from gan3d.ops.triton.alphas import composite_surfaces

        leading = alpha.shape[:-1]
        tensors = alpha.flatten(0, -2), rgb.flatten(0, -3), distances.flatten(0, -2)
        found = composite_surfaces(*tensors, last_back)
        return CompositedSurfaces(*(x.unflatten(0, leading) for x in found))
    return CompositedSurfaces(*alphas_form(alpha, rgb, distances, last_back))


def alphas_form(
    alpha: Tensor, rgb: Tensor, distances: Tensor, last_back: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`composite_alphas` in torch, also for the kernel's derivatives of higher order."""
    # Weights in order of distance.
    order = distances.detach().argsort(dim=-1, stable=True)
    in_order = alpha_weights(alpha.gather(-1, order))
    if last_back:
        rest = 1 - in_order.sum(-1, keepdim=True)
        in_order = torch.cat([in_order[..., :-1], in_order[..., -1:] + rest], -1)

    # Sums in order of the surfaces.
    weights = torch.zeros_like(in_order).scatter(-1, order, in_order)
    color = (weights[..., None] * rgb).sum(-2)
    return color, (weights * distances).sum(-1), weights.sum(-1), weights


def left_alphas(sigma: Tensor, depths: Tensor, last: float = 1e10) -> Tensor:
    """Left-point opacities alpha_i = 1 - exp(-sigma_i (d_{i+1} - d_i)).

    Args:
        sigma: densities, not negative, [.. s].
        depths: in increasing order, [.. s].
        last: length of the interval behind the last sample.

    Returns:
        [.. s].
    """
    deltas = F.pad(depths.diff(dim=-1), (0, 1), value=last)
    return 1 - torch.exp(-sigma * deltas)


def _sample_weights(sigma: Tensor, depths: Tensor) -> Tensor:
    """v_s = (w_{s-1} + w_s) / 2 of sorted samples, [.. s]."""
    half = interval_weights(optical_depths(sigma, depths)) / 2
    return F.pad(half, (0, 1)) + F.pad(half, (1, 0))


def _unordered_weights(sigma: Tensor, depths: Tensor) -> Tensor:
    """v_s of samples in any order, returned in that order, [.. s]."""
    ordered, order = depths.sort(-1)
    weights = _sample_weights(sigma.gather(-1, order), ordered)
    return torch.zeros_like(weights).scatter(-1, order, weights)


def _united(depths: Tensor, sigma: Tensor, blocks: Sequence[Samples]) -> Samples:
    """Blocks as one, in order of depth."""
    rgb = torch.cat([block.rgb for block in blocks], -2)
    if len(blocks) == 1:
        return Samples(depths, sigma, rgb)
    depths, order = depths.sort(-1)
    rgb = rgb.gather(-2, order[..., None].expand_as(rgb))
    return Samples(depths, sigma.gather(-1, order), rgb)


def _by_kernel(
    depths: Tensor, sigma: Tensor, blocks: Sequence[Samples], background: float
) -> Composite:
    """`composite` of one or two blocks by `ops.triton.composite`."""
    from gan3d.ops.triton.composite import composite_sorted

    order = None
    if len(blocks) == 2:
        depths, order = depths.sort(-1)
        sigma, order = sigma.gather(-1, order), order.flatten(0, -2)
    colors = [block.rgb.flatten(0, -3) for block in blocks]
    second = colors[1] if len(blocks) == 2 else None
    color, depth, opacity = composite_sorted(
        depths.flatten(0, -2), sigma.flatten(0, -2), order, colors[0], second, background
    )
    leading = depths.shape[:-1]
    return Composite(*(x.unflatten(0, leading) for x in (color, depth, opacity)))


def sorted_form(
    depths: Tensor,
    sigma: Tensor,
    order: Tensor | None,
    first: Tensor,
    second: Tensor | None,
    background: float,
) -> Composite:
    """What the kernel computes, in torch, for its derivatives of higher order."""
    places = torch.arange(depths.shape[-1], device=depths.device) if order is None else order
    rgb = first if second is None else torch.cat([first, second], -2)
    rgb = rgb.gather(-2, places[..., None].expand_as(rgb))
    return composite(Samples(depths, sigma, rgb), background=background, backend="fast")


def _contract(weights: Tensor, rgb: Tensor) -> Tensor:
    """sum_s v_s c_s: [.. s], [.. s c] -> [.. c]."""
    return (weights[..., None, :] @ rgb).squeeze(-2)


def _expected_depth(weighted: Tensor, opacity: Tensor, depths: Tensor) -> Tensor:
    """weighted / W; the last depth where W = 0, with a finite gradient there."""
    empty = opacity <= 0
    safe = torch.where(empty, torch.ones_like(opacity), opacity)
    return torch.where(empty, depths.amax(-1), weighted / safe)
