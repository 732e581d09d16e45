"""The surface of a scene's density: marching cubes over a grid of the field.

Marching cubes (Lorensen and Cline 1987) are those of scikit-image. Where the surface is, is not
said by the density alone: the level is that of the surface which the generator *renders*.

Convention: as in `gan3d.apps.fusion`, the grid is a cube of side `extent` about the origin, arrays
[x y z], world y up, values at the centers of cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from gan3d.apps.glb import Mesh
from gan3d.apps.packages import needed
from gan3d.apps.views import evaluating
from gan3d.camera import Camera
from gan3d.generators.contract import SURFACE_OPACITY, Generator, Rendering
from gan3d.rendering.volume import ray_box

CHUNK = 2**17  # points of the field at once
RAYS, STEPS = 2**13, 48  # rays that the level is taken from, and points along each


def density_surface(
    generator: Generator,
    representation: Any,
    views: Rendering,
    cameras: Camera,
    *,
    extent: float | None = None,
    voxels: int = 128,
    level: float | None = None,
    progress: bool = False,
) -> Mesh:
    """The closed surface of one scene, without colors.

    What no view shows is outside: a field says nothing about what it was never trained on. The
    sides of the cube close the surface.

    Args:
        generator: a generator with a field.
        representation: one scene, from `generator.represent`.
        views: v views of it, with depth.
        cameras: the v cameras.
        extent: side of the cube, world units; None is the generator's `scene_extent`.
        voxels: along a side.
        level: density on the surface, as the network gives it; None is `surface_level`.
        progress: show a progress bar.

    Raises:
        ValueError: the generator has no field, the views show no surface, or none lies in the
            cube.
    """
    extent = generator.scene_extent if extent is None else extent
    if level is None:
        level = surface_level(generator, representation, views, cameras, extent)
    values = density_grid(generator, representation, cameras, extent, voxels, progress=progress)
    inside = np.pad(values - level, 1, constant_values=-np.inf)
    found = inside > 0
    if not found.any():
        raise ValueError(
            f"no density above {level:g} in the cube of side {extent:g}; give an extent that "
            "contains the object, or another level"
        )
    # What is not known is as far outside as the inside is inside: the surface is then half way.
    inside[np.isinf(inside)] = -np.median(inside[found])
    vertices, faces = marching_cubes(-inside)
    vertices = (vertices - 0.5) * (extent / voxels) - extent / 2
    return Mesh(vertices.astype(np.float32), faces, name="density")


def surface_level(
    generator: Generator,
    representation: Any,
    views: Rendering,
    cameras: Camera,
    extent: float | None = None,
) -> float:
    """The density on the surface that a scene shows, as its opacity tells.

    A ray meets the surface of a level if the density along it rises above that level: the right
    levels are those for which this says best which pixels are more than half opaque. Of these it is
    the one nearest to the density at the depth of the opaque pixels (the median).

    Args:
        generator: a generator with a field.
        representation: one scene.
        views: v views of it, with depth [v 1 h w].
        cameras: the v cameras.
        extent: side of the cube of the scene; None is the generator's `scene_extent`.

    Raises:
        ValueError: no pixel shows a surface.
    """
    assert views.depth is not None
    side = generator.scene_extent if extent is None else extent
    opacity = torch.ones_like(views.depth) if views.opacity is None else views.opacity
    opaque = (opacity > SURFACE_OPACITY).flatten() & views.depth.isfinite().flatten()  # n
    if not opaque.any():
        raise ValueError(
            "no view shows a surface: no pixel is more than half opaque; see it with gan3d sample "
            "--layers opacity, or give another distance of the cameras"
        )
    rays = cameras.rays(views.depth.shape[-1])
    step = -(-len(opaque) // RAYS)
    opaque = opaque[::step]
    origins, directions, cosines = (
        x.flatten(0, 1)[::step] for x in (rays.origins, rays.directions, rays.cosines)
    )
    depth = views.depth.flatten()[::step, None].to(origins).nan_to_num(0.0, 0.0, 0.0)
    surface = (origins + directions * depth / cosines)[opaque.to(origins.device)]
    usual = float(_density(generator, representation, surface).median())

    # the highest density along each ray in the cube
    near, far = ray_box(origins, directions, side)
    shares = torch.linspace(0, 1, STEPS, device=origins.device, dtype=origins.dtype)
    points = origins[:, None] + directions[:, None] * torch.lerp(near, far, shares)[..., None]
    peaks = _density(generator, representation, points.flatten(0, 1)).reshape(-1, STEPS).amax(1)
    peaks = torch.where((near < far).flatten().cpu(), peaks, peaks.min())
    if opaque.all():
        return min(usual, float(peaks.min()))
    levels = torch.quantile(peaks, torch.linspace(0, 1, 257))
    above = peaks > levels[:, None]  # l n
    wrong = (~above[:, opaque]).double().mean(1) + above[:, ~opaque].double().mean(1)
    best = levels[wrong <= wrong.min() + 0.005]
    return min(max(usual, float(best.min())), float(best.max()))


def density_grid(
    generator: Generator,
    representation: Any,
    cameras: Camera,
    extent: float,
    voxels: int,
    *,
    progress: bool = False,
) -> np.ndarray:
    """The density at the centers of a cube's cells, [n n n]; -inf where no camera looks.

    It is computed in chunks, so that any number of voxels fits in memory.
    """
    line = (torch.arange(voxels, device=cameras.device) + 0.5) * (extent / voxels) - extent / 2
    slabs = []
    for x in tqdm(line, desc="density", unit="slab", leave=False, disable=not progress):
        points = torch.cartesian_prod(x[None], line, line).to(cameras.dtype)
        slab = torch.full((voxels * voxels,), -torch.inf)
        shown = _shown(points, cameras)
        if len(shown):
            slab[shown.cpu()] = _density(generator, representation, points[shown])
        slabs.append(slab.reshape(voxels, voxels))
    return torch.stack(slabs).numpy()


def _shown(points: Tensor, cameras: Camera) -> Tensor:
    """Numbers of the world points [p 3] that lie in the picture of a camera, or of more."""
    unseen = torch.arange(len(points), device=points.device)
    seen = []
    for camera in cameras:  # each looks only for what the others do not show
        pixels, z = (x[0] for x in camera.project(points[None, unseen]))
        there = ((pixels >= 0) & (pixels <= 1)).all(-1) & (z[:, 0] > 0)
        seen.append(unseen[there])
        unseen = unseen[~there]
    return torch.cat(seen)


def _density(generator: Generator, representation: Any, points: Tensor) -> Tensor:
    """Density [p] at world points [p 3], on the CPU."""
    with evaluating(generator):
        parts = [generator.field(representation, part[None])[0] for part in points.split(CHUNK)]
    return torch.cat([part.float().cpu().flatten() for part in parts])


def marching_cubes(
    values: np.ndarray, valid: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The surface between values < 0 (inside) and >= 0.

    Args:
        values: [x y z].
        valid: bool [x y z]; cells without eight valid corners are left out.

    Returns:
        vertices: [v 3], in indices of the array.
        faces: [f 3], counterclockwise seen from outside; none where there is no surface.
    """
    measure = needed("skimage.measure")
    nothing = np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    if not (values < 0).any() or not (values >= 0).any():
        return nothing
    cells = None
    if valid is not None:
        cells = np.zeros(valid.shape, bool)
        corners = np.lib.stride_tricks.sliding_window_view(valid, (2, 2, 2))
        cells[1:, 1:, 1:] = corners.all(axis=(-3, -2, -1))  # skimage asks the last corner
        if not cells.any():
            return nothing
    try:
        vertices, faces, _, _ = measure.marching_cubes(
            values.astype(np.float32), 0.0, gradient_direction="descent", mask=cells
        )
    except RuntimeError:  # no surface in the cells
        return nothing
    return vertices, faces.astype(np.int64)
