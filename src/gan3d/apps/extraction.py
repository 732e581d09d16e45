"""A textured mesh of a scene, of any generator with a camera:

views --> surface of the density, or of fused depth --> fewer triangles --> colors of the views
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from gan3d.apps.fusion import fuse_views, view_grid, write_ply
from gan3d.apps.glb import Mesh, write_glb
from gan3d.apps.isosurface import density_surface
from gan3d.apps.meshes import largest_piece, simplified, write_obj
from gan3d.apps.samples import latents
from gan3d.apps.texture import colored, textured
from gan3d.apps.views import evaluating, render_scene
from gan3d.camera import Camera
from gan3d.generators.contract import Generator

Source = Literal["auto", "density", "depth"]


def extract_mesh(
    model: Generator,
    seed: int = 0,
    out: Path | str | None = None,
    camera: Camera | None = None,
    truncation: float = 1.0,
    *,
    source: Source = "auto",
    voxels: int = 128,
    num_faces: int = 10_000,
    texture: int = 512,
    resolution: int | None = None,
    progress: bool = True,
) -> Mesh:
    """The surface of a scene with the colors of 27 views of it: what `gan3d mesh` writes.

    Args:
        model: a generator with a camera; it is not changed.
        seed: of the scene, as of `sample`.
        out: a file to write: .glb, .obj (with .mtl and .png beside it), or .ply, which wants a
            texture of 0; None writes none.
        camera: one frontal camera, as in training; None is that of EG3D (radius 2.7, fov 18.83).
            Published GRAM and CIPS-3D need `Camera.from_angles(0, 0, radius=1, fov=12)`.
        truncation: psi; 1 is no truncation.
        source, voxels, num_faces, texture, resolution, progress: as of `scene_mesh`.

    Raises:
        ValueError: the model has no camera, the file's name ends in something else, or as of
            `scene_mesh`.

    Example:
        >>> import gan3d
        >>> generator = gan3d.PiGAN(**gan3d.PiGAN.tiny)
        >>> mesh = gan3d.extract_mesh(generator, 3, "head.glb", voxels=16, progress=False)
        >>> mesh.vertices.shape[1]
        3
    """
    if not model.has_camera:
        raise ValueError(f"{type(model).__name__} has no camera; a mesh needs a 3D generator")
    if out is not None:
        _writer(out)
    front = Camera.from_angles(0.0, 0.0) if camera is None else camera
    radius, fov = float(front.origins[0].norm()), float(front.fov[0])
    cameras = view_grid(9, 3, yaw=0.6, pitch=0.3, radius=radius, fov=fov)
    z = latents(model, [seed])
    with evaluating(model, lock_view=True):
        ws = model.map(z, model.frontal_condition(front.to(z), 1), truncation=truncation)
        scene = model.represent(ws)
        mesh = scene_mesh(
            model,
            scene,
            cameras.to(z),
            source=source,
            voxels=voxels,
            num_faces=num_faces,
            texture=texture,
            resolution=resolution,
            progress=progress,
        )
    return mesh if out is None else write_mesh(out, mesh)


def write_mesh(path: Path | str, mesh: Mesh) -> Mesh:
    """Writes a mesh by what the file's name ends in, atomically; returns the mesh.

    Raises:
        ValueError: that is none of .glb, .obj and .ply.
    """
    _writer(path)(Path(path), mesh)
    return mesh


def _writer(path: Path | str) -> Callable[[Path, Mesh], Any]:
    """What writes a file by its ending."""
    writers: dict[str, Callable[[Path, Mesh], Any]] = {
        ".glb": lambda path, mesh: write_glb(path, [mesh]),
        ".obj": write_obj,
        ".ply": write_ply,
    }
    found = writers.get(Path(path).suffix.lower())
    if found is None:
        raise ValueError(f"{path} does not end in {', '.join(writers)}; a mesh is one of these")
    return found


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
