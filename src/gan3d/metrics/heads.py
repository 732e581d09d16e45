"""Measures a generator of procedural heads with the signed measures: relief, turn and identity."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gan3d.data.heads import head_camera
from gan3d.generators.contract import Generator
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
    name = type(generator).__name__
    if not generator.has_camera:
        raise ValueError(
            f"{name} has no camera to move, so its heads have no relief and do not turn; choose a "
            "3D generator"
        )
    of_relief, of_turn = HeadRelief() if relief else None, HeadTurn() if turn else None
    for z in latents:
        # the front first
        yaws = [0.0, *(YAWS if turn else ())]
        cameras = [
            head_camera(torch.full((len(z),), yaw), torch.zeros(len(z))).to(z) for yaw in yaws
        ]
        scene = generator.represent(generator.map(z, cameras[0], truncation=truncation))
        views = [
            generator.render(scene, camera, resolution=resolution, raw=False) for camera in cameras
        ]

        if of_relief is not None:
            depth, opacity = views[0].depth, views[0].opacity
            if depth is None:
                raise ValueError(f"{name} shows no depth, so its heads have no relief to measure")
            of_relief.update(depth.cpu(), None if opacity is None else opacity.cpu(), cameras[0])
        if of_turn is not None:
            of_turn.update(torch.stack([view.image.float().cpu() for view in views[1:]], dim=1))

    metrics = [metric for metric in (of_relief, of_turn) if metric is not None]
    return {name: float(value) for metric in metrics for name, value in metric.compute().items()}
