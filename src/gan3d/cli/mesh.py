"""The verb `mesh`: a head as a textured mesh for a browser, Blender or a printer."""

from __future__ import annotations

import sys
from pathlib import Path

from gan3d.apps.extraction import Source, scene_mesh, write_mesh
from gan3d.apps.fusion import view_grid
from gan3d.apps.samples import latents
from gan3d.apps.turntable import turntable as film_of
from gan3d.apps.video import write_video
from gan3d.apps.views import evaluating
from gan3d.camera import orbit
from gan3d.cli.checks import at_least, file_for
from gan3d.cli.choices import seeds_in
from gan3d.cli.models import load_with_view
from gan3d.results import refuse_existing

TURN = 60  # frames of a turntable


def write_mesh_of(
    model: str,
    out: Path = Path("mesh.glb"),
    seeds: str = "0",
    source: Source = "auto",
    num_yaw: int = 9,
    num_pitch: int = 3,
    yaw: float = 0.6,
    pitch: float = 0.3,
    radius: float | None = None,
    fov: float | None = None,
    extent: float | None = None,
    voxels: int = 128,
    level: float | None = None,
    band: float = 4.0,
    faces: int = 10_000,
    texture: int = 512,
    turntable: bool = False,
    truncation: float = 1.0,
    resolution: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> str:
    """Makes a textured mesh of a scene: the surface of its density, or of the depth of many views.

    Args:
        model: a file (.safetensors, .ckpt), a folder, a run folder, or a name
            (docs/checkpoints.md); of a training checkpoint the average is taken.
        out: the mesh: .glb (opens in a browser), .obj (with .mtl and .png beside it), or .ply
            (colors at the vertices); of several seeds each file's name ends in its seed.
        seeds: of the scenes, such as 3, 0-15 or 1,4,8-11.
        source: density is a closed surface where the field is as dense as opaque pixels are; depth
            fuses depth maps, open where no view sees the surface; auto takes the density where a
            model has one.
        num_yaw: views side by side, which give colors and depth.
        num_pitch: views above each other.
        yaw: of the outer views, radians.
        pitch: of the upper views, radians.
        radius: distance of the cameras; by default as in training, else 2.7.
        fov: field of view, degrees; by default as in training, else 18.83.
        extent: side of the cube that holds the surface, world units; by default the generator's
            scene.
        voxels: along a side.
        level: density on the surface; by default as the opacity tells.
        band: of depth, how far behind a surface it is known to be inside, voxels.
        faces: triangles, about; 0 keeps all.
        texture: side of the texture, pixels; 0 is colors at the vertices.
        turntable: whether to film the mesh, too, as it turns from side to side: a .mp4 beside it.
        truncation: psi, 1 is none.
        resolution: of the rendering; by default as in training.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        overwrite: replace files that are there.
    """
    out = file_for(out, ".glb", ".obj", ".ply", overwrite=overwrite)
    numbers = seeds_in("seeds", seeds)
    for name, count in (("num_yaw", num_yaw), ("num_pitch", num_pitch)):
        at_least(1, name, count)
    at_least(0, "faces", faces)
    at_least(0, "texture", texture)
    files = [out]
    if len(numbers) > 1:
        files = [out.with_name(f"{out.stem}_{seed:04d}{out.suffix}") for seed in numbers]
    refuse_existing([name for file in files for name in _written(file, turntable)], overwrite)
    generator, view = load_with_view(model, device, radius=radius, fov=fov, resolution=resolution)
    grid = view_grid(num_yaw, num_pitch, yaw=yaw, pitch=pitch, radius=view.radius, fov=view.fov)
    cameras = grid.to(next(generator.parameters()))
    said = []
    for seed, file in zip(numbers, files, strict=True):
        z = latents(generator, [seed])
        with evaluating(generator):
            ws = generator.map(z, view.condition(generator, z), truncation=truncation)
            scene = generator.represent(ws)
        mesh = scene_mesh(
            generator,
            scene,
            cameras,
            source=source,
            extent=extent,
            voxels=voxels,
            level=level,
            band=band,
            num_faces=faces,
            texture=0 if out.suffix.lower() == ".ply" else texture,
            resolution=view.resolution,
            progress=sys.stderr.isatty(),
        )
        write_mesh(file, mesh)
        if turntable:
            around = orbit(TURN, yaw=1.0, radius=view.radius, fov=view.fov)
            write_video(file.with_suffix(".mp4"), film_of(mesh, around), comment=f"seed {seed}")
        counts = f"{len(mesh.vertices)} vertices, {len(mesh.faces)} triangles"
        said.append(f"{file}: {counts} of {len(cameras)} views")
    return "\n".join(said)


def _written(file: Path, turntable: bool) -> list[Path]:
    """A mesh's file, and what lies beside it."""
    beside = [".mtl", ".png"] if file.suffix.lower() == ".obj" else []
    beside += [".mp4"] if turntable else []
    return [file, *(file.with_suffix(suffix) for suffix in beside)]
