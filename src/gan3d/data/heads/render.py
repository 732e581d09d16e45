"""Renders heads from given cameras: image, true depth and mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gan3d.camera import Camera
from gan3d.data.heads.anatomy import build_scene
from gan3d.data.heads.attributes import HeadAttributes
from gan3d.data.heads.scene import HEAD_SCALE, Scene, compiled, distance
from gan3d.data.heads.shading import background, footprint_at, shade
from gan3d.data.heads.trace import HeadRays, Packing, trace_grid

FOV = 18.83  # degrees; focal length 0.5 / tan(fov / 2) = 3.015 image widths
RADIUS = 2.7  # of the cameras, world units
_DEPTH_TOLERANCE = 5e-5  # relative to the depth: 0.13 thousandths of a head unit


@dataclass(frozen=True)
class HeadViews:
    """Rendered heads.

    Args:
        image: [b 3 H W] in [-1, 1].
        depth: [b 1 H W] camera z where the ray through the pixel center hits the surface, +inf if
            it misses.
        mask: [b 1 H W] in [0, 1], the fraction of a pixel's rays that hit the head.
    """

    image: Tensor
    depth: Tensor
    mask: Tensor


def head_camera(yaw: Tensor, pitch: Tensor) -> Camera:
    """Cameras of the data set at yaw and pitch [b], radians: FOV, RADIUS, looking at the origin."""
    return Camera.from_angles(yaw.float(), pitch.float(), radius=RADIUS, fov=FOV)


@torch.no_grad()
def render_heads(
    attributes: HeadAttributes,
    camera: Camera,
    resolution: int,
    supersample: int = 2,
    depth: bool = True,
    compile: bool = False,
) -> HeadViews:
    """Render head k from camera k.

    Args:
        attributes: b heads (`HeadAttributes.select` repeats a head for several views).
        camera: b cameras with square pixels and the principal point at the image center.
        resolution: side of the image in pixels.
        supersample: rays per pixel along a side.
        depth: False saves the extra ray per pixel that exact depth needs; the depth of a pixel is
            then the smallest depth of its rays.
        compile: compile the distance to the heads first. It takes about a minute once and a C++
            compiler; then images are made two to three times as fast. Colors are the same to
            rounding.

    Returns:
        HeadViews. The pixels of a head do not depend on the rest of the batch.

    Raises:
        ValueError: heads and cameras differ in number, a size is less than 1, or there is no
            C++ compiler where one is needed.

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
    flush = torch.set_flush_denormal(True)  # far-away bumps are denormal: slow and negligible
    try:
        with compiled(compile):
            scene = build_scene(attributes)
            focal = camera.intrinsics[:, 0, 0]
            cam2world = camera.cam2world
            size = resolution * supersample
            spacing = float(1 / (size * focal.min()))

            # Colors. They tolerate an eighth of the ray spacing, exact depth does not.
            if depth and supersample == 1:
                tolerance = _DEPTH_TOLERANCE
            else:
                tolerance = min(0.12 * spacing / HEAD_SCALE, 6 * _DEPTH_TOLERANCE)
            rays, found = trace_grid(scene, size, focal, cam2world, tolerance)
            color = _colors(scene, rays, found, spacing)
            hit = found.isfinite()

            # Depth, at the pixel centers, which need rays of their own.
            if depth and supersample > 1:
                guess = _guess(found, size, supersample)
                _, found = trace_grid(scene, resolution, focal, cam2world, _DEPTH_TOLERANCE, guess)
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
        [b n] world units: zero on the surface, negative inside. The length of its gradient is 0.5
        to 1.4 near the surface.
    """
    local = points.float().transpose(1, 2).contiguous() / HEAD_SCALE
    return distance(build_scene(attributes), local) * HEAD_SCALE


def _colors(scene: Scene, rays: HeadRays, depth: Tensor, spacing: float) -> Tensor:
    """Display color of every ray, [3 n]."""
    out = torch.empty_like(rays.directions)
    hit = depth.isfinite()
    for index, surface in ((hit.nonzero()[:, 0], True), ((~hit).nonzero()[:, 0], False)):
        packing = Packing(rays.head[index], len(rays.origins))
        bundle = packing.spread(torch.cat([rays.directions[:, index], depth[index][None]]))
        color = torch.empty_like(bundle[:, 0:3])
        for chunk in packing.chunks():
            tiles = scene.select(packing.head[chunk])
            direction = bundle[chunk, 0:3]
            t = bundle[chunk, 3]
            if surface:
                origins = rays.origins[packing.head[chunk]][:, :, None]
                points = torch.addcmul(origins, direction, t[:, None]) / HEAD_SCALE
                color[chunk] = shade(tiles, points, direction, footprint_at(t, spacing))
            else:
                color[chunk] = background(tiles, direction)
        out[:, index] = packing.gather(color)
    return out


def _guess(depth: Tensor, size: int, supersample: int) -> Tensor:
    """Depth [n] to start the ray of a pixel center at.

    Just in front of the surface that the pixel's own rays hit if it is smooth, else +inf.
    """
    depth = depth.reshape(-1, 1, size, size)
    nearest = -_pool(-depth, supersample, "max")
    farthest = _pool(depth, supersample, "max")
    return torch.where(farthest - nearest < 0.05, nearest - 0.01, torch.inf).flatten()


def _pool(values: Tensor, factor: int, kind: str) -> Tensor:
    """Mean or maximum over factor x factor blocks, [b c H W]."""
    blocks = values.unflatten(3, (-1, factor)).unflatten(2, (-1, factor))  # b c h f w f
    return blocks.mean((3, 5)) if kind == "mean" else blocks.amax((3, 5))
