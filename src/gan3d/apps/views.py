"""Views of generated scenes: rendering many of them in batches, without touching the generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gan3d.camera import Camera, orbit
from gan3d.generators.contract import Generator, Rendering


@contextmanager
def evaluating(generator: Generator, *, lock_view: bool | None = None) -> Iterator[Generator]:
    """The generator in evaluation mode and without gradients; what is changed is put back
    afterwards.

    Args:
        generator: any.
        lock_view: whether its colors are told the direction of view; None leaves that as it is.
    """
    modes, locked = {module: module.training for module in generator.modules()}, generator.lock_view
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
    """One view of every z, on the CPU, without gradients, jitter or noise.

    Args:
        generator: any.
        z: [b z_dim].
        camera: rendering cameras, b views; None for 2D models.
        conditioning: cameras for `generator.map`, b of them; None is neutral conditioning.
        truncation: of `generator.map`.
        resolution: of `generator.render`.
        raw: whether the raw image is wanted, where it costs something.
        batch_size: views rendered at once.
    """
    parts = []
    with evaluating(generator):
        for start in range(0, len(z), batch_size):
            some = slice(start, start + batch_size)
            given = None if conditioning is None else conditioning[some]
            ws = generator.map(z[some], given, truncation=truncation)
            view = None if camera is None else camera[some]
            parts.append(
                generator.render(generator.represent(ws), view, resolution=resolution, raw=raw)
            )
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


def frontal(cameras: Camera) -> Camera:
    """One camera in front (yaw = pitch = 0) with the mean radius and focal length of others."""
    radius, focal = cameras.origins.norm(dim=-1).mean(), cameras.focal.mean()
    return Camera.from_angles(0.0, 0.0, radius=float(radius), focal=float(focal)).to(
        cameras.cam2world
    )


def orbit_like(cameras: Camera, num: int, *, yaw: float = 0.5, pitch: float = 0.0) -> Camera:
    """The closed path `camera.orbit` with the mean radius and focal length of other cameras."""
    radius, focal = cameras.origins.norm(dim=-1).mean(), cameras.focal.mean()
    path = orbit(num, yaw=yaw, pitch=pitch, radius=float(radius), focal=float(focal))
    return path.to(cameras.cam2world)
