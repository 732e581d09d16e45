"""Measures a generator of procedural heads with the signed measures: relief, turn and identity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from gan3d.camera import Camera
from gan3d.data.heads import FOV, RADIUS
from gan3d.generators.contract import Generator, Rendering
from gan3d.metrics.relief import HeadRelief
from gan3d.metrics.turn import YAWS, HeadTurn


@torch.no_grad()
def measure_heads(
    generator: Generator,
    latents: Iterable[Tensor],
    *,
    truncation: float = 1.0,
    resolution: int | None = None,
    relief: bool = True,
    turn: bool = True,
) -> dict[str, float]:
    """Signed relief, turn and identity of heads seen by the cameras of `gan3d.data.heads`.

    All are conditioned on the frontal camera, so only the rendering camera moves.

    Args:
        generator: a generator with a camera, in evaluation mode.
        latents: batches of z [b z_dim].
        truncation: truncation of `Generator.map`.
        resolution: resolution of `Generator.render`.
        relief: whether to measure `HeadRelief`.
        turn: whether to measure `HeadTurn`.

    Returns:
        The values of `HeadRelief` and `HeadTurn`, by name.

    Raises:
        ValueError: the generator has no camera, or shows no depth.
    """
    of_relief, of_turn = HeadRelief() if relief else None, HeadTurn() if turn else None
    yaws = [0.0, *(YAWS if turn else ())]  # the front first
    for front, views in turned_views(
        generator, latents, yaws, truncation=truncation, resolution=resolution
    ):
        if of_relief is not None:
            of_relief.update(*frontal_depth(generator, views[0]), front)
        if of_turn is not None:
            of_turn.update(torch.stack([view.image.float().cpu() for view in views[1:]], dim=1))

    metrics = [metric for metric in (of_relief, of_turn) if metric is not None]
    return {name: float(value) for metric in metrics for name, value in metric.compute().items()}


@torch.no_grad()
def turned_views(
    generator: Generator,
    latents: Iterable[Tensor],
    yaws: Sequence[float],
    *,
    truncation: float = 1.0,
    resolution: int | None = None,
    radius: float = RADIUS,
    fov: float = FOV,
) -> Iterator[tuple[Camera, list[Rendering]]]:
    """Heads seen from several yaws at pitch 0, all conditioned on the frontal camera; batch by
    batch. The cameras are by default those of `gan3d.data.heads`: radius in world units, fov in
    degrees.

    Yields:
        b frontal cameras, and b views at each of the yaws.

    Raises:
        ValueError: the generator has no camera.
    """
    if not generator.has_camera:
        raise ValueError(
            f"{type(generator).__name__} has no camera to move, so its heads have no relief and do "
            "not turn; choose a 3D generator"
        )
    for z in latents:
        front, *cameras = (
            Camera.from_angles(torch.full((len(z),), yaw), 0.0, radius=radius, fov=fov).to(z)
            for yaw in (0.0, *yaws)
        )
        scene = generator.represent(generator.map(z, front, truncation=truncation))
        yield (
            front,
            [
                generator.render(scene, camera, resolution=resolution, raw=False)
                for camera in cameras
            ],
        )


def frontal_depth(generator: Generator, view: Rendering) -> tuple[Tensor, Tensor | None]:
    """Depth and opacity of a view, on the CPU.

    Raises:
        ValueError: it has no depth.
    """
    if view.depth is None:
        raise ValueError(
            f"{type(generator).__name__} shows no depth, so its heads have no relief to measure"
        )
    return view.depth.cpu(), None if view.opacity is None else view.opacity.cpu()
