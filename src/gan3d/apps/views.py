"""Renders views of many scenes in batches, without changing the generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

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
    """Renders one view of each z, without gradients, jitter or noise.

    Args:
        generator: any generator.
        z: [b z_dim].
        camera: b cameras for rendering; None for 2D models.
        conditioning: b cameras for `generator.map`; None is that of
            `Generator.frontal_condition`.
        truncation: truncation of `generator.map`.
        resolution: resolution of `generator.render`.
        raw: request the raw image, which may take extra time.
        batch_size: views rendered at once.

    Returns:
        b views on the CPU.
    """
    if conditioning is None and camera is not None:
        conditioning = generator.frontal_condition(camera, len(z))
    parts = []
    with evaluating(generator):
        for start in range(0, len(z), batch_size):
            part = slice(start, start + batch_size)
            view_camera = None if camera is None else camera[part]
            map_camera = None if conditioning is None else conditioning[part]
            ws = generator.map(z[part], map_camera, truncation=truncation)
            scene = generator.represent(ws)
            parts.append(generator.render(scene, view_camera, resolution=resolution, raw=raw))
    return Rendering(
        image=torch.cat([part.image.cpu() for part in parts]),
        raw=_joined([part.raw for part in parts]),
        depth=_joined([part.depth for part in parts]),
        opacity=_joined([part.opacity for part in parts]),
    )


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    present = [part.cpu() for part in parts if part is not None]
    return torch.cat(present) if present else None


def repeated(camera: Camera | None, num: int) -> Camera | None:
    """One camera for `num` scenes; None stays None."""
    return None if camera is None else camera.select([0] * num)


def orbit_like(cameras: Camera, num: int, *, yaw: float = 0.5, pitch: float = 0.0) -> Camera:
    """The closed path `camera.orbit` with the mean radius and focal length of other cameras."""
    radius, focal = cameras.origins.norm(dim=-1).mean(), cameras.focal.mean()
    path = orbit(num, yaw=yaw, pitch=pitch, radius=float(radius), focal=float(focal))
    return path.to(cameras.cam2world)
