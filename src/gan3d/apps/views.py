"""Renders views of many scenes in batches, without changing the generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gan3d.camera import Camera, orbit
from gan3d.generators.contract import Generator, Rendering


@contextmanager
def evaluating(generator: Generator, *, lock_view: bool | None = None) -> Iterator[Generator]:
    """Puts a generator in evaluation mode without gradients, and restores it afterwards.

    Args:
        generator: any generator.
        lock_view: sets `generator.lock_view`, which makes colors independent of the direction of
            view; None does not change it.
    """
    modes = {module: module.training for module in generator.modules()}
    locked = generator.lock_view
    generator.eval()
    generator.lock_view = locked if lock_view is None else lock_view
    try:
        with torch.no_grad():
            yield generator
    finally:
        for module, training in modes.items():
            module.training = training
        generator.lock_view = locked


def render_views(
    generator: Generator,
    z: Tensor,
    camera: Camera | None = None,
    *,
    conditioning: Camera | None = None,
    truncation: float = 1.0,
    resolution: int | None = None,
    raw: bool = True,
    batch_size: int = 4,
) -> Rendering:
    """Renders one view of each z: `render_turned` with one camera for each z.

    Args:
        camera: b cameras for rendering; None for 2D models.
    """
    (views,) = render_turned(
        generator,
        z,
        [camera],
        conditioning=conditioning,
        truncation=truncation,
        resolution=resolution,
        raw=raw,
        batch_size=batch_size,
    )
    return views


def render_turned(
    generator: Generator,
    z: Tensor,
    cameras: Sequence[Camera | None],
    *,
    conditioning: Camera | None = None,
    truncation: float = 1.0,
    resolution: int | None = None,
    raw: bool = True,
    batch_size: int = 4,
) -> list[Rendering]:
    """Renders several views of each z, without gradients, jitter or noise; every scene is computed
    once.

    Args:
        generator: any generator.
        z: [b z_dim].
        cameras: b cameras for every view; None for 2D models.
        conditioning: b cameras for `generator.map`; None is that of
            `Generator.frontal_condition` for the first view.
        truncation: truncation of `generator.map`.
        resolution: resolution of `generator.render`.
        raw: request the raw image, which may take extra time.
        batch_size: views rendered at once.

    Returns:
        b views on the CPU for each of the cameras.
    """
    if conditioning is None and cameras[0] is not None:
        conditioning = generator.frontal_condition(cameras[0], len(z))
    parts: list[list[Rendering]] = [[] for _ in cameras]
    with evaluating(generator):
        for start in range(0, len(z), batch_size):
            part = slice(start, start + batch_size)
            map_camera = None if conditioning is None else conditioning[part]
            ws = generator.map(z[part], map_camera, truncation=truncation)
            scene = generator.represent(ws)
            for views, camera in zip(parts, cameras, strict=True):
                view_camera = None if camera is None else camera[part]
                view = generator.render(scene, view_camera, resolution=resolution, raw=raw)
                views.append(_changed(view, Tensor.cpu))
    return [together(views) for views in parts]


def pick(views: Rendering, k: int) -> Rendering:
    """View k alone, [1 c h w] each."""
    return _changed(views, lambda maps: maps[k : k + 1])


def render_scene(
    generator: Generator,
    representation: Any,
    cameras: Camera,
    *,
    resolution: int | None = None,
    progress: bool = False,
) -> Rendering:
    """One scene from all cameras, rendered one after the other, without the raw image.

    Args:
        generator: a generator with a camera.
        representation: one scene, from `generator.represent`.
        cameras: v cameras.
        resolution: resolution of `generator.render`.
        progress: show a progress bar.

    Returns:
        v views on the CPU.
    """
    parts = []
    with evaluating(generator):
        for camera in tqdm(cameras, desc="views", unit="view", leave=False, disable=not progress):
            view = generator.render(representation, camera, resolution=resolution, raw=False)
            parts.append(_changed(replace(view, raw=None), Tensor.cpu))
    return together(parts)


def _changed(view: Rendering, change: Callable[[Tensor], Tensor]) -> Rendering:
    def of(maps: Tensor | None) -> Tensor | None:
        return None if maps is None else change(maps)

    return Rendering(change(view.image), of(view.raw), of(view.depth), of(view.opacity))


def together(parts: Sequence[Rendering]) -> Rendering:
    """Views of several renderings as one rendering, without their extras."""
    return Rendering(
        image=torch.cat([part.image for part in parts]),
        raw=_joined([part.raw for part in parts]),
        depth=_joined([part.depth for part in parts]),
        opacity=_joined([part.opacity for part in parts]),
    )


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def repeated(camera: Camera | None, num: int) -> Camera | None:
    """One camera for `num` scenes; None stays None."""
    return None if camera is None else camera.select([0] * num)


def orbit_like(cameras: Camera, num: int, *, yaw: float = 0.5, pitch: float = 0.0) -> Camera:
    """The closed path `camera.orbit` with the mean radius and focal length of other cameras."""
    radius, focal = cameras.origins.norm(dim=-1).mean(), cameras.focal.mean()
    path = orbit(num, yaw=yaw, pitch=pitch, radius=float(radius), focal=float(focal))
    return path.to(cameras.cam2world)
