"""Pictures of a generator in two calls, for notebooks and scripts:

rendering = sample(generator, seeds=range(8), truncation=0.7)
picture(rendering).show()
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image

from gan3d.apps.pictures import PAPER, layers, sheet
from gan3d.apps.views import render_views, repeated
from gan3d.camera import Camera
from gan3d.generators.contract import Generator, Rendering
from gan3d.randomness import Randomness

MOST_COLUMNS = 8


def sample(
    model: Generator,
    seeds: Iterable[int],
    camera: Camera | None = None,
    truncation: float = 1.0,
    *,
    resolution: int | None = None,
    batch_size: int = 4,
) -> Rendering:
    """One view of a scene per seed, on the CPU. A seed names the first scene that the verbs show
    for their `--seed`.

    Args:
        model: any generator; it is left as it is.
        seeds: of the scenes.
        camera: one for all, or one per seed; None looks from the front as EG3D's cameras do (radius
            2.7, fov 18.83). Published GRAM and CIPS-3D: `Camera.from_angles(0, 0, radius=1,
            fov=12)`.
        truncation: psi; 1 is none.
        resolution: of `Generator.render`.
        batch_size: scenes rendered at once.

    Returns:
        b views; `extras["seed"]` holds the seeds, [b].

    Example:
        >>> import gan3d
        >>> generator = gan3d.EG3D(**gan3d.EG3D.tiny)
        >>> camera = gan3d.Camera.from_angles(yaw=0.3, pitch=0.0)
        >>> gan3d.sample(generator, seeds=[0, 1], camera=camera, truncation=0.7).image.shape
        torch.Size([2, 3, 32, 32])
    """
    seeds = list(seeds)
    if not seeds:
        raise ValueError("there are no seeds; give one or more, such as seeds=[0, 1]")
    place = next(model.parameters())
    z = torch.cat([Randomness(seed, [0]).normal("z", model.z_dim) for seed in seeds]).to(place)
    shown = render_views(
        model,
        z,
        _cameras(model, camera, len(seeds), place),
        truncation=truncation,
        resolution=resolution,
        batch_size=batch_size,
    )
    return Rendering(
        shown.image, shown.raw, shown.depth, shown.opacity, extras={"seed": torch.tensor(seeds)}
    )


def _cameras(
    model: Generator, camera: Camera | None, num: int, place: torch.Tensor
) -> Camera | None:
    if not model.has_camera:
        if camera is not None:
            raise ValueError(f"{type(model).__name__} has no camera, got one; leave it out")
        return None
    camera = (Camera.from_angles(0.0, 0.0) if camera is None else camera).to(place)
    if len(camera) not in (1, num):
        raise ValueError(f"got {len(camera)} cameras for {num} seeds; give one, or one per seed")
    return camera if len(camera) == num else repeated(camera, num)


def picture(
    rendering: Rendering, labels: Sequence[str] | None = None, *, side: int = 128
) -> Image.Image:
    """A sheet of what a rendering has of raw image, image and depth: a column per view, with
    labels.

    Args:
        rendering: b views.
        labels: one per view; None: the seeds, of `sample`, else numbers.
        side: smaller pictures are enlarged to at least so many pixels, pixel by pixel.

    Returns:
        a PIL image: `.show()`, `.save("heads.png")`, or the last line of a notebook's cell.

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
    # Long rows are broken; the last one is filled up with paper.
    columns = min(num, MOST_COLUMNS)
    lines = []
    for start in range(0, num, columns):
        some = slice(start, start + columns)
        missing = columns - len(labels[some])
        filled = [_filled_up(row[some], missing) for row in rows]
        lines.append(sheet(filled, names, [*labels[some], *[""] * missing], side=side))
    return Image.fromarray(np.concatenate(lines))


def _filled_up(pictures: np.ndarray, missing: int) -> np.ndarray:
    return np.pad(pictures, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=PAPER)
