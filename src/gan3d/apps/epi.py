"""Epipolar line textures: one row of the picture over time, along a camera path (GRAM-HD figure 5).

    epi[t, x] = image(camera_t)[row, x]

In a 3D scene every point draws a smooth, nearly straight line, whose slope depends on its depth
(Bolles et al. 1987). A texture that sticks to the screen draws vertical lines, flicker draws noise.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from gan3d.apps.pictures import grid, sheet, to_uint8
from gan3d.apps.views import evaluating
from gan3d.camera import Camera
from gan3d.generators.contract import Generator
from gan3d.results import write_whole

LEAST_WIDTH = 256  # pixels; narrower pictures are enlarged


def sweep(
    num: int,
    *,
    yaw: float = 0.3,
    pitch: float = 0.0,
    radius: float = 2.7,
    fov: float | None = None,
    focal: float | None = None,
) -> Camera:
    """A path of cameras at equal steps of yaw, looking at the origin.

    Args:
        num: number of cameras, 2 or more.
        yaw: the path runs from -yaw to yaw, radians.
        pitch: pitch of all cameras, radians.
        radius: distance from the origin, world units.
        fov, focal: lens, see `Camera.from_angles`.
    """
    if num < 2:
        raise ValueError(f"a sweep of {num} camera(s) does not move; use 2 or more")
    yaws = torch.linspace(-yaw, yaw, num, dtype=torch.float64)
    return Camera.from_angles(yaws, pitch, radius=radius, fov=fov, focal=focal).to(torch.float32)


def epi(
    generator: Generator,
    representation: Any,
    path: Camera,
    row: int | None = None,
    *,
    num_scenes: int = 1,
    resolution: int | None = None,
    progress: bool = False,
) -> Tensor:
    """One row of the image along a path of cameras.

    Generators with independent pixels render that row only.

    Args:
        generator: a generator with a camera (`has_camera`).
        representation: `num_scenes` scenes, from `generator.represent`.
        path: one camera per frame.
        row: row of the image, counted from the top; None is the middle row.
        num_scenes: b, number of scenes, all seen along the same path.
        resolution: resolution of `generator.render`.
        progress: show a progress bar.

    Returns:
        [b 3 frames W], about [-1, 1], on the CPU; time runs downwards.

    Raises:
        ValueError: the generator has no camera, or the image has no such row.
    """
    if not generator.has_camera:
        raise ValueError(
            f"{type(generator).__name__} has no camera to move; an epi needs a 3D generator"
        )
    rows = []
    frames = tqdm(range(len(path)), desc="epi", unit="frame", leave=False, disable=not progress)
    with evaluating(generator):
        for t in frames:
            camera = path.select([t] * num_scenes)
            if generator.independent_pixels:
                line = _rendered_row(generator, representation, camera, row, resolution)
            else:
                view = generator.render(representation, camera, resolution=resolution, raw=False)
                line = view.image[:, :, _checked_row(row, view.image.shape[-2])]
            rows.append(line.cpu())
    return torch.stack(rows, dim=2)


def _rendered_row(
    generator: Generator,
    representation: Any,
    camera: Camera,
    row: int | None,
    resolution: int | None,
) -> Tensor:
    side = resolution or generator.img_resolution
    rays = _checked_row(row, side) * side + torch.arange(side, device=camera.device)
    view = generator.render(representation, camera, resolution=resolution, rays=rays, raw=False)
    return view.image[..., 0]  # b 3 r


def _checked_row(row: int | None, height: int) -> int:
    row = height // 2 if row is None else row
    if not 0 <= row < height:
        raise ValueError(
            f"row {row} is outside of an image of {height} rows; use 0 to {height - 1}"
        )
    return row


def write_epi(path: str | Path, lines: Tensor, *, title: str | None = None, gap: int = 2) -> Path:
    """Writes epi textures [b 3 frames W] below each other into a picture (.png), atomically.

    Args:
        path: of the picture.
        lines: of b scenes.
        title: stands above; with it the scenes are labeled, and small ones enlarged.
        gap: white pixels between scenes.
    """
    if title is None:
        picture = grid(to_uint8(lines), columns=1, gap=gap)
    else:
        scenes = [f"scene {k}" for k in range(len(lines))]
        height, width = lines.shape[-2:]
        side = math.ceil(LEAST_WIDTH / width) * min(height, width)
        rows = [each[None] for each in to_uint8(lines)]
        picture = sheet(rows, scenes, [title], side=side, gap=gap)
    return write_whole(Path(path), Image.fromarray(picture).save)
