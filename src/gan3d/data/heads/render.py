"""Pictures of heads in memory: image, true depth and mask for any cameras."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gan3d.camera import Camera
from gan3d.data.heads.anatomy import build_scene
from gan3d.data.heads.attributes import HeadAttributes
from gan3d.data.heads.scene import HEAD_SCALE, Scene, distance
from gan3d.data.heads.shading import background, footprint_at, shade
from gan3d.data.heads.trace import HeadRays, Packing, trace_grid

FOV = 18.83  # degrees, taken literally: focal length 0.5 / tan(fov / 2) = 3.015 image widths
RADIUS = 2.7
_DEPTH_TOLERANCE = 5e-5  # of the depth: 0.13 thousandths of a head unit


@dataclass(frozen=True)
class HeadViews:
    """Rendered heads.

    Args:
        image: [b 3 H W] in [-1, 1].
        depth: [b 1 H W] camera z of the surface met by the ray through the pixel's center; +inf
            where that ray misses.
        mask: [b 1 H W] in [0, 1], the fraction of a pixel's rays that meet the head.
    """

    image: Tensor
    depth: Tensor
    mask: Tensor


def head_camera(yaw: Tensor, pitch: Tensor) -> Camera:
    """The data set's camera at (yaw, pitch) [b] in radians: FOV, RADIUS, looking at the origin."""
    return Camera.from_angles(yaw.float(), pitch.float(), radius=RADIUS, fov=FOV)


@torch.no_grad()
def render_heads(
    attributes: HeadAttributes,
    camera: Camera,
    resolution: int,
    supersample: int = 2,
    depth: bool = True,
) -> HeadViews:
    """Render head k from camera k.

    Args:
        attributes: b heads (`HeadAttributes.select` repeats a head for several views).
        camera: b cameras; square pixels, principal point in the middle.
        resolution: pixels along a side.
        supersample: rays per pixel along a side.
        depth: False skips the extra ray per pixel that exact depth costs; depth is then that of the
            nearest ray of the pixel.

    Returns:
        HeadViews. A head's pixels do not depend on what else is in the batch.

    Convention: world y up, camera OpenCV, intrinsics in units of the image size.
    """
    if len(attributes) != camera.cam2world.shape[0]:
        raise ValueError(
            f"{len(attributes)} heads and {camera.cam2world.shape[0]} cameras; give one camera per "
            "head"
        )
    if resolution < 1 or supersample < 1:
        raise ValueError(
            f"resolution {resolution} and supersample {supersample} must be at least 1"
        )
    flush = torch.set_flush_denormal(True)  # far-away bumps are denormal: slow and worth nothing
    try:
        scene = build_scene(attributes)
        focal, cam2world = camera.intrinsics[:, 0, 0], camera.cam2world
        size = resolution * supersample
        spacing = float(1 / (size * focal.min()))
        exact_is_free = depth and supersample == 1
        # A color is right within an eighth of the ray spacing; depth is to be true.
        tolerance = (
            _DEPTH_TOLERANCE
            if exact_is_free
            else min(0.12 * spacing / HEAD_SCALE, 6 * _DEPTH_TOLERANCE)
        )
        rays, found = trace_grid(scene, size, focal, cam2world, tolerance)
        color, hit = _colors(scene, rays, found, spacing), found.isfinite()
        if depth and supersample > 1:
            found = trace_grid(
                scene,
                resolution,
                focal,
                cam2world,
                _DEPTH_TOLERANCE,
                _guess(found, size, supersample),
            )[1]
            exact = found.reshape(len(attributes), 1, resolution, resolution)
        else:
            exact = -_pool(-found.reshape(-1, 1, size, size), supersample, "max")
    finally:
        if flush:
            torch.set_flush_denormal(False)
    image = _pool(color.reshape(3, -1, size, size).transpose(0, 1), supersample, "mean")
    mask = _pool(hit.float().reshape(-1, 1, size, size), supersample, "mean")
    return HeadViews(image * 2 - 1, exact, mask)


@torch.no_grad()
def head_distance(attributes: HeadAttributes, points: Tensor) -> Tensor:
    """Distance bound from world points to the heads, for geometry checks.

    Args:
        attributes: b heads.
        points: [b n 3] world units.

    Returns:
        [b n] world units, zero on the surface, negative inside; its gradient's length is 0.5 to 1.4
        near the surface.
    """
    return (
        distance(build_scene(attributes), points.float().transpose(1, 2).contiguous() / HEAD_SCALE)
        * HEAD_SCALE
    )


def _colors(scene: Scene, rays: HeadRays, depth: Tensor, spacing: float) -> Tensor:
    """Display color of every ray, [3 n]."""
    out = torch.empty_like(rays.directions)
    hit = depth.isfinite()
    for index, surface in ((hit.nonzero()[:, 0], True), ((~hit).nonzero()[:, 0], False)):
        packing = Packing(rays.head[index], len(rays.origins))
        bundle = packing.spread(torch.cat([rays.directions[:, index], depth[index][None]]))
        color = torch.empty_like(bundle[:, 0:3])
        for chunk in packing.chunks():
            tiles, direction, t = (
                scene.select(packing.head[chunk]),
                bundle[chunk, 0:3],
                bundle[chunk, 3],
            )
            if surface:
                origins = rays.origins[packing.head[chunk]][:, :, None]
                points = torch.addcmul(origins, direction, t[:, None]) / HEAD_SCALE
                color[chunk] = shade(tiles, points, direction, footprint_at(t, spacing))
            else:
                color[chunk] = background(tiles, direction)
        out[:, index] = packing.gather(color)
    return out


def _guess(depth: Tensor, size: int, supersample: int) -> Tensor:
    """Where to start a pixel's center ray: just before its rays' surface if that is one and smooth,
    else +inf. [n].
    """
    depth = depth.reshape(-1, 1, size, size)
    nearest, farthest = -_pool(-depth, supersample, "max"), _pool(depth, supersample, "max")
    return torch.where(farthest - nearest < 0.05, nearest - 0.01, torch.inf).flatten()


def _pool(values: Tensor, factor: int, kind: str) -> Tensor:
    """Mean or maximum over factor x factor blocks, [b c H W]."""
    blocks = values.unflatten(3, (-1, factor)).unflatten(2, (-1, factor))  # b c h f w f
    return blocks.mean((3, 5)) if kind == "mean" else blocks.amax((3, 5))
