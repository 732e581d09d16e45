"""A textured mesh of a scene, of any generator with a camera:

views --> surface of the density, or of fused depth --> fewer triangles --> colors of the views
"""

from __future__ import annotations

from typing import Any, Literal

from gan3d.apps.fusion import fuse_views
from gan3d.apps.glb import Mesh
from gan3d.apps.isosurface import density_surface
from gan3d.apps.meshes import largest_piece, simplified
from gan3d.apps.texture import colored, textured
from gan3d.apps.views import render_scene
from gan3d.camera import Camera
from gan3d.generators.contract import Generator

Source = Literal["auto", "density", "depth"]


def scene_mesh(
    generator: Generator,
    representation: Any,
    cameras: Camera,
    *,
    source: Source = "auto",
    extent: float | None = None,
    voxels: int = 128,
    level: float | None = None,
    band: float = 4.0,
    num_faces: int = 10_000,
    texture: int = 512,
    resolution: int | None = None,
    progress: bool = False,
) -> Mesh:
    """The surface of a scene with the colors of its views.

    Args:
        generator: a generator with a camera.
        representation: one scene, from `generator.represent`.
        cameras: of the views, which are rendered one by one.
        source: density is the closed surface of the field, of which the largest piece is kept;
            depth the surface that the views show, open where they show nothing; auto is density for
            a generator with a field.
        extent: side of the cube, world units; None is the generator's `scene_extent`.
        voxels: along a side.
        level: density on the surface, as the network gives it; None is that of
            `isosurface.surface_level`.
        band: of depth, how far behind a surface it is known to be inside, voxels.
        num_faces: triangles are simplified to about this number; 0 keeps all.
        texture: side of the texture, pixels; 0 is colors at the vertices.
        resolution: resolution of `generator.render`.
        progress: show progress bars.

    Raises:
        ValueError: the generator has no field where its density is asked for, or no surface lies in
            the cube.
    """
    extent = generator.scene_extent if extent is None else extent
    views = render_scene(
        generator, representation, cameras, resolution=resolution, progress=progress
    )
    if source == "density" or (source == "auto" and generator.has_field):
        mesh = density_surface(
            generator,
            representation,
            views,
            cameras,
            extent=extent,
            voxels=voxels,
            level=level,
            progress=progress,
        )
        mesh = largest_piece(mesh)
    else:
        mesh = fuse_views(views, cameras.to("cpu"), extent=extent, voxels=voxels, truncation=band)
    if num_faces:
        mesh = simplified(mesh, num_faces)
    if texture:
        return textured(mesh, views, cameras.to("cpu"), size=texture)
    return colored(mesh, views, cameras.to("cpu"))
