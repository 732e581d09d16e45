"""Compositing of surfaces whose colors and opacities are images (GRAM-HD section 3.2).

Ray r meets surface i at x_i, or misses it (v_i = 0). The K levels have a map each; the last surface
is a plane with colors of its own, opaque where it is hit.

    (c_i, a_i) = map_i at (x, y) / e, bilinear, 0 outside;   alpha_i = v_i a_i
    c_K = behind_r;   alpha_K = v_K
    d_i = |x_i - o|,   w_i from the alphas in order of distance (`ops.composite.composite_alphas`)
    C = sum_i w_i c_i,   D = sum_i w_i d_i,   W = sum_i w_i,   X = sum_i w_i x_i

`reference` and `fast` are the same here: look up, concatenate, sort, sum. On a GPU one kernel does
it (`ops.triton.manifolds`): of the size of rays by surfaces it writes nothing but the weights.

Convention: coordinates of a map as in `ops.grid_sample`; colors of rays are [b r c] with surfaces
in between, [b r k c], in any order along the ray.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gan3d.host import constant
from gan3d.ops.backend import Backend, choose, deterministic
from gan3d.ops.composite import MOST_SURFACES, composite_alphas
from gan3d.ops.grid_sample import grid_sample


class CompositedMaps(NamedTuple):
    """Values of rays.

    Attributes:
        rgb: C, [b r 3].
        depth: D, not divided by W, [b r].
        opacity: W, [b r].
        weights: w_i in the order of the surfaces, [b r k+1].
        position: X, not divided by W, [b r 3].
    """

    rgb: Tensor
    depth: Tensor
    opacity: Tensor
    weights: Tensor
    position: Tensor


def composite_manifolds(
    maps: Tensor,
    behind: Tensor,
    points: Tensor,
    valid: Tensor,
    origins: Tensor,
    *,
    half_extent: float,
    aligned: bool = False,
    last_back: bool = False,
    backend: Backend | None = None,
) -> CompositedMaps:
    """C, D, W and X of rays through K surfaces and a plane behind them.

    Differentiable any number of times.

    Args:
        maps: colors and opacities of the surfaces, [b k 4 h w].
        behind: colors of the plane, [b r 3].
        points: x_i, [b r k+1 3], on the plane last.
        valid: v_i, [b r k+1].
        origins: o of each view, from which distances count, [b 3] or [1 3].
        half_extent: e of the maps.
        aligned: whether -e and e are the centers of the border texels, or (False) their outer
            edges.
        last_back: whether to add 1 - W to the weight of the farthest surface.
        backend: see `ops.backend`; None chooses. The kernel takes at most 63 levels; its backward
            pass adds by atomics, so that under deterministic algorithms torch takes its place.

    Raises:
        ValueError: the backend does not run here.
    """
    backend = choose(backend, maps)
    scales = scales_of(maps, half_extent, aligned)
    if backend == "triton" and points.shape[2] <= MOST_SURFACES and not deterministic():
        from gan3d.ops.triton.manifolds import composite_maps

        found = composite_maps(maps, behind, points, valid, origins, scales, last_back)
        return CompositedMaps(*found)
    return manifolds_form(maps, behind, points, valid, origins, scales, last_back, backend)


def look_up_foreground(
    maps: Tensor, points: Tensor, half_extent: float, *, aligned: bool = False
) -> Tensor:
    """Values of the surfaces' maps at points: bilinear at (x, y) / e, 0 outside.

    Args:
        maps: [b k c h w], rows from the smallest y.
        points: [b r k 3].
        half_extent: e of the maps.
        aligned: as in `composite_manifolds`.

    Returns:
        [b r k c].
    """
    return _look_up(maps, points, scales_of(maps, half_extent, aligned), None)


def scales_of(maps: Tensor, half_extent: float, aligned: bool) -> list[float]:
    """What x and y are multiplied by, so that the outer edges of the texels are at -1 and 1."""
    shrinks = (1 - 1 / n if aligned else 1.0 for n in (maps.shape[-1], maps.shape[-2]))
    return [shrink / half_extent for shrink in shrinks]


def manifolds_form(
    maps: Tensor,
    behind: Tensor,
    points: Tensor,
    valid: Tensor,
    origins: Tensor,
    scales: list[float],
    last_back: bool,
    backend: Backend = "fast",
) -> CompositedMaps:
    """`composite_manifolds` in torch, also for the kernel's derivatives of higher order."""
    rgba = _look_up(maps, points[:, :, :-1], scales, backend)
    rgb = torch.cat([rgba[..., :3], behind[:, :, None]], 2)
    alpha = F.pad(rgba[..., 3], (0, 1), value=1.0) * valid
    distances = torch.linalg.vector_norm(points - origins[:, None, None], dim=-1)
    seen = composite_alphas(alpha, rgb, distances, last_back=last_back, backend=backend)
    return CompositedMaps(*seen, (seen.weights[..., None] * points).sum(-2))


def _look_up(maps: Tensor, points: Tensor, scales: list[float], backend: Backend | None) -> Tensor:
    grid = rearrange(points[..., :2] * constant(scales, points), "b r k c -> (b k) 1 r c")
    images = rearrange(maps, "b k c h w -> (b k) c h w")
    values = grid_sample(images, grid, backend=backend)
    return rearrange(values, "(b k) c 1 r -> b r k c", b=len(maps))
