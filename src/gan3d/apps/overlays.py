"""What is laid over the pictures of a scene: points on its surface, or its mesh."""

from __future__ import annotations

from typing import Any

import numpy as np

from gan3d.apps.clouds import point_cloud
from gan3d.apps.extraction import scene_mesh
from gan3d.apps.fusion import view_grid
from gan3d.apps.glb import Mesh
from gan3d.apps.looks import Exhibit
from gan3d.apps.views import render_scene
from gan3d.camera import Camera
from gan3d.generators.contract import Rendering


def surface_points(views: Rendering, cameras: Camera) -> tuple[np.ndarray, np.ndarray]:
    """The points that the depth of some views shows, where a pixel is opaque.

    Args:
        views: v views with depth and opacity [v 1 h w].
        cameras: of the views.

    Returns:
        points, world units, float32 [n 3], and their colors, uint8 [n 3].
    """
    assert views.depth is not None
    found = point_cloud(views, cameras, most=views.depth.shape[-1])
    return found[:, :3], found[:, 3:].astype(np.uint8)


def points_of(exhibit: Exhibit, scene: Any) -> tuple[np.ndarray, np.ndarray]:
    """Points on a scene's surface, from five views side by side: as `surface_points`."""
    cameras = _cameras(exhibit, 5, 1)
    views = render_scene(exhibit.generator, scene, cameras, resolution=exhibit.resolution)
    return surface_points(views, cameras.to("cpu"))


def mesh_of(exhibit: Exhibit, scene: Any) -> Mesh:
    """The mesh of a scene with colors at its vertices, coarse enough to wait for."""
    return scene_mesh(
        exhibit.generator,
        scene,
        _cameras(exhibit, 5, 3),
        voxels=96,
        texture=0,
        resolution=exhibit.resolution,
    )


def _cameras(exhibit: Exhibit, num_yaw: int, num_pitch: int) -> Camera:
    grid = view_grid(num_yaw, num_pitch, yaw=0.6, pitch=0.3, radius=exhibit.radius, fov=exhibit.fov)
    return grid.to(next(exhibit.generator.parameters()))
