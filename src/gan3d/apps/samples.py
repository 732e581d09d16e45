"""Pictures of a generator in two calls, a video in one, for notebooks and scripts:

rendering = sample(generator, seeds=range(8), truncation=0.7)
picture(rendering).show()
orbit(generator, seeds=[3], out="head.mp4")
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gan3d.apps.pictures import contact_sheet, layers
from gan3d.apps.video import scene_frames, write_video
from gan3d.apps.views import render_turned, repeated
from gan3d.camera import Camera
from gan3d.generators.contract import Generator, Rendering
from gan3d.randomness import Randomness

MAX_COLUMNS = 8


def sample(
    model: Generator,
    seeds: Iterable[int],
    camera: Camera | None = None,
    truncation: float = 1.0,
    *,
    resolution: int | None = None,
    batch_size: int = 4,
) -> Rendering:
    """Renders one view per seed, on the CPU.

    The scene of a seed is the first scene that the commands show for `--seed`.

    Args:
        model: any generator; it is not changed.
        seeds: seeds of the scenes.
        camera: one camera for all, or one per seed; None is a frontal camera as in EG3D (radius
            2.7, fov 18.83). Published GRAM and CIPS-3D need
            `Camera.from_angles(0, 0, radius=1, fov=12)`.
        truncation: psi; 1 is no truncation.
        resolution: resolution of `Generator.render`.
        batch_size: scenes rendered at once.

    Returns:
        b views; `extras["seed"]` holds the seeds, [b].

    Raises:
        ValueError: there are no seeds, or the cameras do not fit.

    Example:
        >>> import gan3d
        >>> generator = gan3d.EG3D(**gan3d.EG3D.tiny)
        >>> camera = gan3d.Camera.from_angles(yaw=0.3, pitch=0.0)
        >>> gan3d.sample(generator, seeds=[0, 1], camera=camera, truncation=0.7).image.shape
        torch.Size([2, 3, 32, 32])
    """
    (views,) = sample_turned(
        model, seeds, [camera], truncation, resolution=resolution, batch_size=batch_size
    )
    return views


def sample_turned(
    model: Generator,
    seeds: Iterable[int],
    cameras: Sequence[Camera | None],
    truncation: float = 1.0,
    *,
    resolution: int | None = None,
    raw: bool = True,
    batch_size: int = 4,
) -> list[Rendering]:
    """Renders several views of each seed: `sample` with each of some cameras, where every scene is
    computed once.

    Args:
        cameras: of every view, as of `sample`.
        raw: request the raw image, which may take extra time.
    """
    seeds = list(seeds)
    z, like = latents(model, seeds), next(model.parameters())
    views = render_turned(
        model,
        z,
        [_cameras(model, camera, len(seeds), like) for camera in cameras],
        truncation=truncation,
        resolution=resolution,
        raw=raw,
        batch_size=batch_size,
    )
    extras = {"seed": torch.tensor(seeds)}
    return [replace(view, extras=extras) for view in views]


def latents(model: Generator, seeds: Iterable[int]) -> Tensor:
    """z of each seed, where the model is: the first of the scenes that the commands show for
    `--seed`, [b z_dim].
    """
    seeds = list(seeds)
    if not seeds:
        raise ValueError("there are no seeds; give one or more, such as seeds=[0, 1]")
    like = next(model.parameters())
    return torch.cat([Randomness(seed, [0]).normal("z", model.z_dim) for seed in seeds]).to(like)


def _cameras(
    model: Generator, camera: Camera | None, num: int, like: torch.Tensor
) -> Camera | None:
    """`num` cameras of the dtype and device of `like`; None for 2D models."""
    if not model.has_camera:
        if camera is not None:
            raise ValueError(f"{type(model).__name__} has no camera, got one; leave it out")
        return None
    camera = (Camera.from_angles(0.0, 0.0) if camera is None else camera).to(like)
    if len(camera) not in (1, num):
        raise ValueError(f"got {len(camera)} cameras for {num} seeds; give one, or one per seed")
    return camera if len(camera) == num else repeated(camera, num)


def orbit(
    model: Generator,
    seeds: Iterable[int],
    out: Path | str | None = None,
    path: Camera | None = None,
    truncation: float = 1.0,
    *,
    layers: Sequence[str] = ("image",),
    columns: int | None = None,
    resolution: int | None = None,
    fps: int = 30,
    progress: bool = True,
) -> np.ndarray:
    """A video of scenes while the camera moves around them; every scene is computed once.

    Args:
        model: a generator with a camera; it is not changed.
        seeds: seeds of the scenes, as of `sample`.
        out: a file to write, .mp4 or .gif; None writes none.
        path: one camera per frame (`gan3d.camera.camera_path` has some by name); None is an orbit
            of 60 frames at radius 2.7, fov 18.83, as in EG3D. Published GRAM and CIPS-3D need
            `gan3d.camera.orbit(60, radius=1, fov=12)`.
        truncation: psi; 1 is no truncation.
        layers: what to show, below each other: image, raw, depth, normals, opacity.
        columns: scenes beside each other; None makes the grid about square.
        resolution: resolution of `Generator.render`.
        fps: frames per second.
        progress: show a progress bar.

    Returns:
        frames, uint8 [t H W 3].

    Raises:
        ValueError: there are no seeds, the model has no camera, or there is no such layer.

    Example:
        >>> import gan3d
        >>> generator = gan3d.EG3D(**gan3d.EG3D.tiny)
        >>> path = gan3d.camera.orbit(4)
        >>> gan3d.orbit(generator, [0, 1], "heads.mp4", path, progress=False).shape
        (4, 32, 64, 3)
    """
    z = latents(model, list(seeds))
    frames = scene_frames(
        model,
        z,
        path,
        truncation=truncation,
        layers=layers,
        columns=columns,
        resolution=resolution,
        progress=progress,
    )
    if out is not None:
        write_video(out, frames, fps=fps)
    return frames


def picture(
    rendering: Rendering, labels: Sequence[str] | None = None, *, side: int = 128
) -> Image.Image:
    """A sheet of raw image, image and depth, as far as a rendering has them, a column per view.

    Args:
        rendering: b views.
        labels: one per view; None uses the seeds of `sample`, else numbers.
        side: smaller pictures are enlarged to at least this side, pixel by pixel.

    Returns:
        A PIL image, for `.show()`, `.save("heads.png")` or a notebook.

    Example:
        >>> import gan3d
        >>> generator = gan3d.EG3D(**gan3d.EG3D.tiny)
        >>> gan3d.picture(gan3d.sample(generator, seeds=range(3))).mode
        'RGB'
    """
    num = len(rendering.image)
    if labels is None:
        seeds = rendering.extras.get("seed")
        labels = [str(k) for k in range(num)] if seeds is None else [f"seed {s}" for s in seeds]
    if len(labels) != num:
        raise ValueError(f"got {len(labels)} labels for {num} views; give one per view")
    names = ["raw"] * (rendering.raw is not None) + ["image"]
    rows = layers(rendering)
    names += ["depth"] * (len(rows) - len(names))
    return Image.fromarray(contact_sheet(rows, names, labels, columns=MAX_COLUMNS, side=side))
