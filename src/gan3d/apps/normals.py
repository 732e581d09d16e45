"""Normals of the surface that a depth map describes.

Convention: components along the axes of the camera's picture, x to the right, y up, z towards the
camera, so that the usual colors (n + 1) / 2 show a surface that faces the camera in light blue.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor

from gan3d.camera import Camera


def surface_normals(depth: Tensor, camera: Camera) -> Tensor:
    """Unit normals of the points p(u, v) that a depth map shows, [b 3 h w].

        n = dp/dv x dp/du / |..|

    Of the differences to both neighbors the one with the smaller step in depth counts, so that a
    silhouette does not bend the surface before it.

    Args:
        depth: camera z [b 1 h w], world units, h = w of 2 or more.
        camera: the b cameras.
    """
    side = depth.shape[-1]
    rays = camera.rays(side)
    distance = rearrange(depth, "b 1 h w -> b (h w) 1").to(rays.directions) / rays.cosines
    axes = camera.cam2world[:, :3, :3]  # right, down, forward
    points = einsum(rays.directions * distance, axes, "b r x, b x c -> b c r")
    points = rearrange(points, "b c (h w) -> b c h w", h=side)
    right, down = (_difference(points, dim) for dim in (-1, -2))
    n = F.normalize(down.cross(right, dim=1), dim=1)
    return n * n.new_tensor([1.0, -1.0, -1.0])[:, None, None]


def _difference(points: Tensor, dim: int) -> Tensor:
    """Differences between neighbors along an axis: to the next one or from the last one, as the
    depth (channel 2) steps less.
    """
    length = points.shape[dim]
    steps = points.narrow(dim, 1, length - 1) - points.narrow(dim, 0, length - 1)
    last, first = steps.narrow(dim, length - 2, 1), steps.narrow(dim, 0, 1)
    ahead, behind = torch.cat([steps, last], dim), torch.cat([first, steps], dim)
    smaller = ahead[:, 2:].abs() <= behind[:, 2:].abs()
    return ahead.where(smaller, behind)
