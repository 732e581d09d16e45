"""Point clouds: the surface that some views of a scene show, with its colors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.apps.pictures import to_uint8
from gan3d.camera import Camera
from gan3d.generators.contract import SURFACE_OPACITY, Rendering

MAX_SIDE = 64  # of a view, points


def point_cloud(views: Rendering, camera: Camera, most: int = MAX_SIDE) -> np.ndarray:
    """Points where the rays of some views end, with the colors of their pixels.

        p = o + d z / cos,   z the depth along the axis of the camera

    Views that agree lie on one surface; a billboard is one plane for each view that turns with it.

    Args:
        views: b views of one scene, with depth; the pixels of larger ones are thinned out to
            `most` a side.
        camera: their b cameras.
        most: points of a view, a side.

    Returns:
        float32 [n 6]: x, y, z in world units, red, green, blue in [0, 255]; n is 0 where nothing
        is opaque.

    Raises:
        ValueError: the views have no depth.
    """
    if views.depth is None:
        raise ValueError("the views have no depth; use a 3D model")
    side = views.depth.shape[-1]
    step = -(-side // most)
    rays = camera.to(views.depth).rays(side)
    along = (rays.directions / rays.cosines).unflatten(1, (side, side))  # b h w 3
    points = camera.origins.to(along)[:, None, None] + views.depth[:, 0, ..., None] * along
    seen = views.depth.isfinite() & (views.depth > 0)
    if views.opacity is not None:
        seen &= views.opacity > SURFACE_OPACITY
    colors = torch.from_numpy(to_uint8(_sized(views.image, side))).to(points)
    thin = slice(step // 2, None, step)
    found = torch.cat([points, colors], dim=-1)[:, thin, thin]  # b h w 6
    return found[seen[:, 0, thin, thin]].float().numpy()


def _sized(images: Tensor, side: int) -> Tensor:
    return images if images.shape[-1] == side else F.interpolate(images, (side, side), mode="area")


def read_cloud(path: Path) -> np.ndarray:
    """The points of a file of `gan3d.apps.fusion.write_ply`, float32 [n 6] as of `point_cloud`."""
    head, _, content = path.read_bytes().partition(b"end_header\n")
    num = next(
        int(line.split()[-1]) for line in head.splitlines() if line.startswith(b"element vertex")
    )
    kind = np.dtype([("places", "<f4", 3), ("colors", "u1", 3)])
    points = np.frombuffer(content, kind, count=num)
    return np.concatenate([points["places"], points["colors"].astype(np.float32)], axis=1)
