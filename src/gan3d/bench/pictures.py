"""Pictures and an orbit of a model, for the page of the benchmark and the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gan3d.apps.pictures import draw, enlarge, grid, to_uint8
from gan3d.apps.samples import latents, sample_turned
from gan3d.apps.video import scene_frames, write_video
from gan3d.camera import Camera
from gan3d.camera import orbit as orbit_path
from gan3d.generators.contract import Generator, Rendering
from gan3d.results import write_whole

YAWS = (-0.6, -0.3, 0.0, 0.3, 0.6)
ROWS, SIDE, FRAMES = 4, 96, 40
View = tuple[float, float]  # radius, field of view in degrees


def front_views(
    generator: Generator,
    num: int,
    view: View | None,
    yaws: Sequence[float] = (0.0,),
    resolution: int | None = None,
) -> list[Rendering]:
    """The first scenes from some sides, conditioned on the frontal camera; 2D: their pictures.

    Args:
        view: radius and field of view of the cameras; None for 2D models.
    """
    cameras: list[Camera | None] = [None]
    if view is not None and generator.has_camera:
        # conditioned on the first one
        turned = [Camera.from_angles(yaw, 0.0, radius=view[0], fov=view[1]) for yaw in yaws]
        cameras = list(turned)
    return sample_turned(generator, range(num), cameras, resolution=resolution, raw=False)


def turned_sheet(
    generator: Generator, view: View | None, resolution: int | None = None
) -> np.ndarray:
    """Scenes in rows, seen from `YAWS`, and their frontal depth; 2D: a grid of pictures. uint8
    [H W 3].
    """
    if not generator.has_camera:
        (pictures,) = front_views(generator, 6 * ROWS, None)
        return grid(enlarge(to_uint8(pictures.image), SIDE), 6)
    seen = front_views(generator, ROWS, view, YAWS, resolution)
    frontal = seen[YAWS.index(0.0)]
    columns = [to_uint8(rendering.image) for rendering in seen]
    columns.append(draw(frontal, "depth"))
    cells = np.stack([enlarge(column, SIDE) for column in columns], axis=1)
    return grid(cells.reshape(-1, *cells.shape[2:]), len(columns))


def write_pictures(
    generator: Generator, view: View | None, stem: Path, resolution: int | None = None
) -> dict[str, str]:
    """Writes <stem>.png and, of 3D models, <stem>.mp4, an orbit; their names by what they are."""
    picture = stem.with_name(f"{stem.name}.png")
    sheet = Image.fromarray(turned_sheet(generator, view, resolution))
    write_whole(picture, lambda partial: sheet.save(partial, optimize=True))
    files = {"sheet": picture.name}
    if view is not None and generator.has_camera:
        path = orbit_path(FRAMES, yaw=0.6, pitch=0.15, radius=view[0], fov=view[1])
        z = latents(generator, range(ROWS))
        frames = scene_frames(
            generator, z, path, columns=ROWS, resolution=resolution, progress=False
        )
        files["orbit"] = write_video(stem.with_name(f"{stem.name}.mp4"), frames).name
    return files
